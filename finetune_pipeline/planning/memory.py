"""Estimates the memory of a training in bytes, by formulas whose sources the functions name."""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.planning.batches import Batch
from finetune_pipeline.settings import shown_gpus
from finetune_pipeline.spec.methods import METHODS, Method
from finetune_pipeline.spec.methods.base import CHECKPOINT_ABOVE, ModelShape

MIB = 2**20
CPU_OVERHEAD = 600 * MIB
"""Interpreter and libraries of a training process, measured just before its first step."""
CPU_KERNELS, _MOST_CPU_KERNELS = 50 * MIB, 1024 * MIB
"""Matrix products in bfloat16 that oneDNN compiles for each size of a batch, and for all: it keeps 1,024 of about a MiB."""
GPU_OVERHEAD = 700 * MIB
"""CUDA context, cuBLAS workspaces and kernels on the device; not measured by this project."""
NF4 = 0.5 + 0.127 / 8
"""Bytes per parameter in 4-bit NormalFloat with double quantization (Dettmers et al. 2023, section 3)."""
SLACK = 1.06
"""Factor for the allocator's overhead on memory that is allocated and freed within a step."""
_TOKENIZER_FACTOR = 6
"""Bytes in memory for each byte of tokenizer.json."""
_ROW_TOKEN_BYTES = 53
"""Bytes in memory for each token of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Parts of the peak memory. resident: mapped pages of the weight file that are not needed (the system reclaims them when
    memory is short); everything else is needed."""

    weights: int
    trained: int = 0
    gradients: int = 0
    optimiser: int = 0
    activations: int
    logits: int
    overhead: int
    resident: int = 0

    @property
    def needed(self) -> int:
        return self.total - self.resident

    @property
    def total(self) -> int:
        """The peak memory that the system reports for the process."""
        return sum(asdict(self).values())

    def in_mib(self) -> dict[str, int]:
        """Return the parts, the needed part and the total, in MiB."""
        parts = {**asdict(self), "needed": self.needed, "total": self.total}
        return {name: round(part / MIB) for name, part in parts.items()}


def checkpoints(shape: ModelShape, settings: Mapping[str, Any]) -> bool:
    """Whether gradient checkpointing will be used."""
    setting = settings["gradient_checkpointing"]
    if not METHODS[settings["method"]].checkpointing:
        return False
    return shape.parameters > CHECKPOINT_ABOVE if setting == "auto" else bool(setting)


def weight_bytes(shape: ModelShape, method: Method, width: int) -> int:
    """Return the bytes of the base as models.loading.load_for_training loads it; width: bytes of the compute dtype."""
    if method.holds == "four_bit":
        return int(shape.linear * NF4) + 2 * (shape.parameters - shape.linear)
    return shape.parameters * (4 if method.holds == "float32" else width)


def _norm_width(shape: ModelShape, method: Method, width: int) -> int:
    """Return the bytes that a norm saves per element: the fused norm saves its result; others save the input and (if trained) the
    normed input, in float32."""
    if method.holds == "float32":
        return 8
    return 4 if shape.own_norms else width


def layer_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int) -> int:
    """Return the bytes that a block saves for its backward pass, with the modules of training.fused and .attention.

    Follows Korthikanti et al. 2022, section 4.1, adapted to these modules: the norms' inputs, every trained layer's input (and
    its dropout mask), the gated MLP's three products, and attention's queries, keys, values and weights.
    """
    method, tokens = METHODS[settings["method"]], batch.tokens
    query_width, key_width = shape.heads * shape.head_dim, shape.key_heads * shape.head_dim
    norm_width = _norm_width(shape, method, width)
    normed = shape.norms * shape.hidden + (query_width + key_width if shape.head_norms else 0)
    saved = tokens * norm_width * normed
    saved += method.kept_bytes(settings, shape, tokens, width) + 3 * tokens * shape.inner * width
    if batch.scores or not batch.mask:  # packed attention
        return saved + width * (batch.queries * query_width + 2 * batch.keys * key_width + batch.scores * shape.heads)
    # torch's attention saves queries, keys and values for every head, its result, and a mask in the compute dtype
    saved += width * (query_width * (batch.queries + 2 * batch.keys) + batch.mask) + 4 * batch.queries * shape.heads
    return saved + (0 if method.keeps_attention(settings, shape) else width * tokens * query_width)


def activation_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int) -> int:
    """Return the bytes all blocks save; with gradient checkpointing, each block's input and one block's activations."""
    block, method = layer_bytes(shape, settings, batch, width), METHODS[settings["method"]]
    in_float32 = method.holds == "float32"
    # autocast's 16-bit copies of the trained weights
    outside_blocks = 2 * (shape.linear + shape.vocabulary * shape.hidden) if in_float32 and width == 2 else 0
    if method.trains_inputs:  # otherwise the first norm saves nothing, which offsets the last one
        outside_blocks += batch.tokens * shape.hidden * _norm_width(shape, method, width)
    if not checkpoints(shape, settings):
        return shape.layers * block + outside_blocks
    return shape.layers * batch.tokens * shape.hidden * (4 if in_float32 else width) + block + outside_blocks


def working_bytes(shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int, device: str = "cpu") -> int:
    """Return the temporary bytes of a block's backward pass: gradients of its widest tensors, and a weight dequantized from
    four bits (two on the CPU)."""
    four_bit = METHODS[settings["method"]].holds == "four_bit"
    dequantized = shape.inner * shape.hidden * width * (2 if device == "cpu" else 1) if four_bit else 0
    return 4 * batch.tokens * shape.inner * width + dequantized


def logit_bytes(
    shape: ModelShape, settings: Mapping[str, Any], batch: Batch, width: int, *, training: bool = True
) -> int:
    """Return the bytes of the logits: with their float32 gradient, the loss's largest copy, and the output head's memory."""
    total = batch.learned * shape.vocabulary * (width + (8 if width == 2 else 4))
    if not batch.scores and batch.mask:
        # padded: logits of all positions from the first learned one on, and their gradient
        total += 2 * batch.logits * shape.vocabulary * width
    head_weights, holds = shape.vocabulary * shape.hidden, METHODS[settings["method"]].holds
    if holds == "float32":
        autocast_copy = 2 if width == 2 else 0
        # in training also the gradients of the copy and of the head, which is separate from the embedding's
        total += head_weights * (4 + 2 * autocast_copy if training else autocast_copy)
    elif holds == "four_bit" and width == 4:
        total += head_weights * 4  # the bfloat16 head, converted to float32
    return total


def process_overhead(device: str, tokenizer_bytes: int, tokens: int = 0) -> int:
    """Return the bytes that a process needs besides the model; tokens: of the rows kept in memory. On a GPU only device memory
    counts."""
    if device != "cpu":
        return GPU_OVERHEAD
    return CPU_OVERHEAD + _TOKENIZER_FACTOR * tokenizer_bytes + _ROW_TOKEN_BYTES * tokens


def training_memory(
    shape: ModelShape,
    settings: Mapping[str, Any],
    batch: Batch,
    *,
    width: int,
    device: str = "cpu",
    tokenizer_bytes: int = 0,
    tokens: int = 0,
    sizes: int = 1,
) -> Memory:
    """Return the peak memory of a training with largest batch `batch`, in one process on one device.

    width: bytes of the compute dtype (4: float32, 2: bfloat16). tokenizer_bytes: size of tokenizer.json; tokens: of both
    splits, which are kept in memory. sizes: how many different numbers of tokens batches have. On a GPU only device memory counts.
    """
    method, on_cpu = METHODS[settings["method"]], device == "cpu"
    trainable, full_fine_tuning = method.trainable(settings, shape), method.holds == "float32"
    weights = weight_bytes(shape, method, width)
    # weights in the file's dtype are mapped pages of it: all of them, or those not stored in four bits
    stored_per_weight = shape.stored_bytes / shape.parameters
    four_bit = method.holds == "four_bit"
    loaded_width = {"four_bit": 2, "float32": 4, "compute": width}[method.holds]
    is_mapped = loaded_width == round(stored_per_weight)
    mapped = int(stored_per_weight * shape.linear) if on_cpu and four_bit and is_mapped else 0
    activations = activation_bytes(shape, settings, batch, width) + working_bytes(shape, settings, batch, width, device)
    activations, logits = int(activations * SLACK), int(logit_bytes(shape, settings, batch, width) * SLACK)
    gradients = 4 * trainable
    if full_fine_tuning and on_cpu:
        gradients *= 2  # the best checkpoint is loaded while everything else is still in memory
    elif full_fine_tuning and settings["micro_batch_size"] == settings["batch_size"]:
        # a block's activations and 16-bit weights are freed before its gradients exist
        gradients = max(0, gradients - activations - logits)
    kernels = min(sizes * CPU_KERNELS, _MOST_CPU_KERNELS) if on_cpu and width == 2 else 0
    memory = Memory(
        weights=weights,
        trained=0 if full_fine_tuning else 4 * trainable,
        gradients=gradients,
        optimiser=8 * trainable,
        activations=activations,
        logits=logits,
        overhead=process_overhead(device, tokenizer_bytes, tokens) + kernels,
        resident=mapped,
    )
    loading = weights + memory.overhead + (0 if is_mapped else shape.stored_bytes)
    if on_cpu and loading > memory.total:  # with a large base and few trained weights, loading is the peak
        return replace(memory, resident=memory.resident + loading - memory.total)
    return memory


def evaluation_memory(
    shape: ModelShape, settings: Mapping[str, Any], batch: Batch, training: Memory, *, width: int
) -> Memory:
    """Return the peak memory of a validation pass within that training: one block at a time, without gradients."""
    block = layer_bytes(shape, settings, batch, width) + working_bytes(shape, settings, batch, width) // 2
    logits = logit_bytes(shape, settings, batch, width, training=False)
    return replace(training, gradients=0, activations=int(block * SLACK), logits=int(logits * SLACK))


VARIABLE = "FINETUNE_MEMORY_GIB"
_GROUP = Path("/sys/fs/cgroup")


def available_memory(device: str, group: Path = _GROUP) -> int:
    """Return the free bytes: FINETUNE_MEMORY_GIB if set, else those of the fullest GPU, or of the machine within the
    container's limit. Raises OutsideError if the variable is not a number, or a GPU's memory cannot be read."""
    if gib := os.environ.get(VARIABLE, "").strip():
        return bytes_of(gib, VARIABLE)
    if device != "cpu":
        return min(gpu_memory())
    return min(int(psutil.virtual_memory().available), _free_within(group))


def bytes_of(gib: str, name: str) -> int:
    """Return the bytes of a number of GiB. Raises OutsideError with the name of its option or variable."""
    try:
        size = int(float(gib) * 2**30)
    except (ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise OutsideError(f"{name}={gib!r} is not a number of GiB")
    return size


def _free_within(group: Path) -> int:
    """Return the free bytes within a control group's limit (cgroup v2); cached files count as free, since they are evictable."""
    try:
        limit, used = (int((group / f"memory.{name}").read_text("utf-8")) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return 1 << 62
    return max(0, limit - used + int(stat.get("inactive_file", 0)))


def gpu_memory(kind: Literal["free", "total"] = "free") -> list[int]:
    """Return the bytes of each GPU visible to this process (CUDA_VISIBLE_DEVICES), from nvidia-smi; loads no GPU library.
    Raises OutsideError if nvidia-smi is missing, fails or shows no GPU: a plan must not guess."""
    command = ["nvidia-smi", f"--query-gpu=index,uuid,memory.{kind}", "--format=csv,noheader,nounits"]
    fix = f"set {VARIABLE}, or FINETUNE_DEVICES=cpu"
    try:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"the GPUs' memory cannot be read: nvidia-smi failed ({error})"
        raise OutsideError(problem, f"{fix}, or install it") from error
    rows = [[part.strip() for part in line.split(",")] for line in output.splitlines()]
    gpus = {(row[0], row[1]): int(row[2]) * MIB for row in rows if len(row) == 3 and row[2].isdecimal()}
    visible = shown_gpus(os.environ)
    # a UUID may be abbreviated; a MIG device is in none of these rows
    matches = [
        [size for (index, uuid), size in gpus.items() if name == index or uuid.startswith(name)]
        for name in visible or ()
    ]
    if visible is None:
        matches = [[size] for size in gpus.values()]
    if not matches or not all(matches):
        scope = "" if visible is None else f" of CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r}"
        problem = f"the memory of the GPUs{scope} cannot be read: nvidia-smi shows {output.strip()[:200]!r}"
        raise OutsideError(problem, fix)
    return [sizes[0] for sizes in matches]
