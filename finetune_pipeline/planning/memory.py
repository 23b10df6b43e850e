"""Estimates the peak memory of a training in bytes, one formula a method, to about 25%; and reads how much is free."""

import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.settings import shown_gpus
from finetune_pipeline.spec.methods import METHODS, Method
from finetune_pipeline.spec.methods.base import CHECKPOINT_ABOVE, ModelShape
from finetune_pipeline.spec.training import TrainingSettings

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
_ROW_TOKEN_BYTES = 53
"""Bytes in memory for each token of the rows."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The size of one forward pass. tokens: those that pass through every layer; longest: the tokens that one of them attends to
    at most; logits: positions whose logits are computed."""

    rows: int = 0
    tokens: int = 0
    longest: int = 0
    logits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Parts of the peak memory in bytes. trained: the trained weights with their gradients and optimiser states."""

    weights: int
    trained: int = 0
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def in_mib(self) -> dict[str, int]:
        """Return the parts and the total, in MiB."""
        return {name: round(part / MIB) for name, part in {**asdict(self), "total": self.total}.items()}


def checkpoints(shape: ModelShape, settings: TrainingSettings) -> bool:
    """Whether gradient checkpointing will be used."""
    setting = settings.gradient_checkpointing
    if not METHODS[settings.method].checkpointing:
        return False
    return shape.parameters > CHECKPOINT_ABOVE if setting == "auto" else bool(setting)


def weight_bytes(shape: ModelShape, method: Method, width: int) -> int:
    """Return the bytes of the base as models.loading.load_for_training loads it; width: bytes of the compute dtype."""
    if method.holds == "four_bit":
        return int(shape.linear * NF4) + 2 * (shape.parameters - shape.linear)
    return shape.parameters * (4 if method.holds == "float32" else width)


def process_overhead(device: str, tokens: int = 0) -> int:
    """Return the bytes that a process needs besides the model; tokens: of the rows kept in memory. On a GPU only device memory
    counts."""
    return GPU_OVERHEAD if device != "cpu" else CPU_OVERHEAD + _ROW_TOKEN_BYTES * tokens


def training_memory(
    shape: ModelShape,
    settings: TrainingSettings,
    batch: Batch,
    *,
    width: int,
    device: str = "cpu",
    tokens: int = 0,
    sizes: int = 1,
    validating: bool = False,
) -> Memory:
    """Return the peak memory of a training with largest batch `batch`, in one process on one device.

    A block saves attention's weights, and a number of vectors per token that depends on the method (Korthikanti et al. 2022,
    section 4.1; Method.saved_widths). Checkpointing saves every block's input and recomputes one block at a time. The backward
    pass of a block takes about as much again. Pages of the weight file that the system can reclaim do not count.

    Args:
        width: Bytes of the compute dtype (4: float32, 2: bfloat16).
        tokens: Of both splits, which are kept in memory.
        sizes: How many different numbers of tokens batches have.
        validating: During a validation pass, which keeps nothing for a backward pass and has no gradients.
    """
    method, on_cpu = METHODS[settings.method], device == "cpu"
    whole = method.holds == "float32"
    hidden, inner = method.saved_widths(settings)
    block = batch.tokens * width * (hidden * shape.hidden + inner * shape.inner + batch.longest * shape.heads)
    blocks, inputs = 1.0 + shape.layers, 0
    if validating:
        blocks = 1.0
    elif checkpoints(shape, settings):
        blocks, inputs = 2.0, shape.layers * batch.tokens * shape.hidden * width
    # logits, their float32 copy and its gradient; weights of the head in both dtypes, with gradients; a classifier has a few
    # classes in place of a vocabulary
    vocabulary = shape.vocabulary if method.kind.generates else 0
    logits = batch.logits * vocabulary * (width + (8 if width == 2 else 4))
    if whole and not validating:
        logits += shape.vocabulary * shape.hidden * (8 if width == 2 else 4)
    # AdamW's two states; the float32 copy of an adapter; the gradients
    per_trained = 8 + (0 if whole else 4) + (0 if validating else 4)
    if whole and on_cpu:
        per_trained += 4  # the best checkpoint is loaded while everything else is still in memory
    kernels = min(sizes * CPU_KERNELS, _MOST_CPU_KERNELS) if on_cpu and width == 2 else 0
    return Memory(
        weights=weight_bytes(shape, method, width),
        trained=per_trained * method.trainable(settings, shape),
        activations=int((blocks * block + inputs) * SLACK),
        logits=int(logits * SLACK),
        overhead=process_overhead(device, tokens) + kernels,
    )


VARIABLE = "FINETUNE_MEMORY_GIB"
_GROUP = Path("/sys/fs/cgroup")


def available_memory(device: str) -> int:
    """Return the free bytes: FINETUNE_MEMORY_GIB if set, else those of the fullest GPU, or of the machine within the
    container's limit. Raises OutsideError if the variable is not a number, or a GPU's memory cannot be read."""
    if gib := os.environ.get(VARIABLE, "").strip():
        return bytes_of(gib, VARIABLE)
    if device != "cpu":
        return min(gpu_memory())
    return min(int(psutil.virtual_memory().available), _free_within(_GROUP))


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


def gpu_memory() -> list[int]:
    """Return the free bytes of each GPU visible to this process (CUDA_VISIBLE_DEVICES), from nvidia-smi; loads no GPU library.
    Raises OutsideError if nvidia-smi is missing, fails or shows no GPU: a plan must not guess."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
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
