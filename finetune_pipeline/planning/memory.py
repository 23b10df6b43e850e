"""Memory a training takes, by formula. All figures in bytes; the functions below name the source of every term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.planning.batches import Batch
from finetune_pipeline.planning.shape import ModelShape, trainable_parameters
from finetune_pipeline.spec.method_defaults import LOW_RANK

MIB = 2**20
CPU_OVERHEAD = 600 * MIB
"""Interpreter and libraries of a training process, measured right before its first step."""
GPU_OVERHEAD = 700 * MIB
"""CUDA context, cuBLAS workspaces and kernels on the device; not measured by this project."""
NF4 = 0.5 + 0.127 / 8
"""Bytes a parameter in 4-bit NormalFloat with double quantization (Dettmers et al. 2023, section 3)."""
SLACK = 1.06
"""Memory the allocator holds beyond what is in use, over everything that comes and goes within a step."""
CHECKPOINT_ABOVE = 1_000_000_000
"""Parameters from which gradient_checkpointing: auto switches it on (training.methods)."""
_TOKENIZER = 6
"""Bytes in memory for each byte of tokenizer.json."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Parts of the peak. resident: pages of the weight file that stay mapped without being needed (the system takes them
    back when it is short); everything else is needed."""

    weights: int
    trained: int
    gradients: int
    optimiser: int
    activations: int
    logits: int
    overhead: int
    resident: int = 0

    @property
    def needed(self) -> int:
        return sum(v for k, v in self.parts().items() if k != "resident")

    @property
    def total(self) -> int:
        """What the process shows as its peak."""
        return self.needed + self.resident

    def parts(self) -> dict[str, int]:
        return {name: int(getattr(self, name)) for name in self.__slots__}


def checkpoints(shape: ModelShape, settings: Mapping[str, Any]) -> bool:
    """Whether gradient checkpointing will be on."""
    wanted = settings["gradient_checkpointing"]
    if settings["method"] == "prefix":
        return False
    return shape.parameters > CHECKPOINT_ABOVE if wanted == "auto" else bool(wanted)


def weight_bytes(shape: ModelShape, method: str, width: int) -> int:
    """The base as models.loading.load_for_training holds it; width: bytes of the compute type."""
    if method == "qlora":
        return int(shape.linear * NF4) + 2 * (shape.parameters - shape.linear)
    return shape.parameters * (4 if method == "full" else width)


def layer_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int) -> int:
    """What one block keeps of a batch for its backward pass, as the modules of training.fused and training.attention do.

    After Korthikanti et al. 2022, section 4.1, for these modules: the norms' inputs, what every trained layer reads (and
    the mask of its dropout), the gated MLP's three products, and attention's queries, keys, values and weights.
    """
    method, t = settings["method"], batch.tokens
    full = method == "full"
    low_rank = settings["lora"] if method in LOW_RANK else None
    mixed = full and width == 2  # autocast: norms and residual stream stay in float32
    heads, keys = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    kept = 0
    # norms: the fused one keeps its result, others the input and (trained) the normed input, in float32
    own = 4 if full or shape.own_norms else width
    each = 8 if full else own
    kept += t * (shape.norms * each * shape.hidden + bool(shape.head_norms) * each * (heads + keys))
    # what trained layers read: one tensor for all layers that read the same
    inputs = {"qkv": shape.hidden, "o": heads, "up": shape.hidden, "down": shape.inner}
    readers = {"qkv": 3, "o": 1, "up": 2, "down": 1}
    if full:
        for name, features in inputs.items():
            kept += t * features * width * (readers[name] if mixed and name in ("qkv", "up") else 1)
    elif low_rank is not None:
        read = _read_inputs(shape, low_rank["target_modules"])
        copies = 2 if low_rank["dropout"] else 1
        if low_rank["dora"]:  # PEFT's own arithmetic: a float32 copy and a mask for every layer, and its results
            for layer in shape.targeted(low_rank["target_modules"]):
                kept += t * (5 * layer.fan_in + 12 * layer.fan_out) // shape.layers
        else:
            kept += sum(t * inputs[name] * width * copies for name in read)
            kept += (
                sum(
                    low_rank["r"] * width * (t + layer.fan_in + layer.fan_out)
                    for layer in shape.targeted(low_rank["target_modules"])
                )
                // shape.layers
            )
    kept += 3 * t * shape.inner * width
    # attention
    if batch.scores or not batch.mask:
        kept += width * (batch.queries * heads + 2 * batch.keys * keys + batch.scores * shape.heads)
    else:  # torch's own keeps queries, keys and values for every head, its result, and a mask in the compute type
        kept += width * (heads * (batch.queries + 2 * batch.keys) + batch.mask) + 4 * batch.queries * shape.heads
        kept += (
            0 if full or (low_rank and "o" in _read_inputs(shape, low_rank["target_modules"])) else width * t * heads
        )
    return int(kept)


def _read_inputs(shape: ModelShape, targets: Any) -> list[str]:
    """Which of a block's four inputs an adapter reads."""
    ends = {"q": "qkv", "k": "qkv", "v": "qkv", "o": "o", "gate": "up", "up": "up", "down": "down"}
    joined = {"qkv_proj": "qkv", "c_attn": "qkv", "c_proj": "o", "gate_up_proj": "up", "c_fc": "up"}
    names = {layer.name.rpartition(".")[2] for layer in shape.targeted(targets)}
    return sorted({joined.get(name) or ends.get(name.removesuffix("_proj"), "up") for name in names})


def activation_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int) -> int:
    """All blocks' share: what each keeps, or with gradient checkpointing the input of each and one block's whole."""
    one = layer_bytes(shape, settings, batch, width)
    mixed = settings["method"] == "full"
    # autocast's 16-bit copies of the trained weights
    copies = 2 * (shape.linear + shape.vocabulary * shape.hidden) if mixed and width == 2 else 0
    if settings["method"] in ("full", "prompt"):  # elsewhere nothing is kept of the first norm, which pays for the last
        copies += batch.tokens * shape.hidden * (8 if mixed else 4 if shape.own_norms else width)
    if not checkpoints(shape, settings):
        return shape.layers * one + copies
    return shape.layers * batch.tokens * shape.hidden * (4 if mixed else width) + one + copies


def working_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int) -> int:
    """What a block's backward pass holds for itself: gradients of its widest tensors, and weights read from four bits."""
    unpacked = shape.inner * shape.hidden * 2 * width if settings["method"] == "qlora" else 0
    return 4 * batch.tokens * shape.inner * width + unpacked


def logit_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int) -> int:
    """Logits with their gradient in float32 and the largest copy the loss makes, and what the output head adds."""
    made, learned = batch.logits * shape.vocabulary, batch.learned * shape.vocabulary
    total = learned * (width + (8 if width == 2 else 4))
    if not batch.scores and batch.mask:  # padded: those of all positions from the first learned one, and their gradient
        total += 2 * made * width
    head = shape.vocabulary * shape.hidden
    if settings["method"] == "full":
        total += head * (4 + (2 * 2 if width == 2 else 0))  # the head's gradient, made apart from the embedding's
    elif settings["method"] == "qlora" and width == 4:
        total += head * 4  # the bfloat16 head, widened
    return total


def training_memory(
    shape: ModelShape,
    settings: Mapping[str, Any],
    batch: Batch,
    *,
    width: int,
    device: str = "cpu",
    tokenizer_bytes: int = 0,
    tokens: int = 0,
) -> Memory:
    """Peak of a training whose largest batch is `batch`, in one process on one device.

    width: bytes of the compute type (4: float32, 2: bfloat16). tokenizer_bytes: size of tokenizer.json; tokens: of both
    splits, which lie in the process's memory. On a GPU only what lies there is counted.
    """
    method, cpu = settings["method"], device == "cpu"
    trainable = trainable_parameters(shape, settings)
    weights = weight_bytes(shape, method, width)
    # weights that stay in the dtype of their file are its mapped pages: all of them, or what is not in four bits
    stored = shape.stored_bytes / shape.parameters
    taken_over = (2 if method == "qlora" else 4 if method == "full" else width) == round(stored)
    mapped = int(stored * shape.linear) if cpu and method == "qlora" and taken_over else 0
    moving = activation_bytes(shape, settings, batch, width) + working_bytes(shape, settings, batch, width)
    best = trainable * 4 if method == "full" else 0  # the best checkpoint is read while everything else is still there
    memory = Memory(
        weights=weights,
        trained=0 if method == "full" else 4 * trainable,
        gradients=4 * trainable + best,
        optimiser=8 * trainable,
        activations=int(moving * SLACK),
        logits=int(logit_bytes(shape, settings, batch, width) * SLACK),
        overhead=CPU_OVERHEAD + _TOKENIZER * tokenizer_bytes + 53 * tokens if cpu else GPU_OVERHEAD,
        resident=mapped,
    )
    loading = weights + memory.overhead + (0 if taken_over else shape.stored_bytes)
    if cpu and loading > memory.total:  # a large base and little to train: reading it is the peak
        spare = loading - memory.total
        return Memory(**{**memory.parts(), "resident": memory.resident + spare})
    return memory


def evaluation_memory(
    shape: ModelShape, settings: Mapping[str, Any], batch: Batch, training: Memory, *, width: int
) -> Memory:
    """Of a validation pass in the midst of that training: one block at a time, and no gradients."""
    one = layer_bytes(shape, settings, batch, width) + working_bytes(shape, settings, batch, width) // 2
    logits = logit_bytes(shape, settings, batch, width)
    return Memory(
        **{**training.parts(), "gradients": 0, "activations": int(one * SLACK), "logits": int(logits * SLACK)}
    )
