"""How a training is spread over several devices: copies of the model (DDP), or shards of it (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from finetune_pipeline.planning.batches import Batch
from finetune_pipeline.planning.memory import Memory, training_memory
from finetune_pipeline.planning.shape import ModelShape, trainable_parameters

Strategy = Literal["single", "ddp", "fsdp2"]
ROOM = 0.8
"""Share of a device's memory that a training may be planned to take; the rest is for fragmentation and peaks."""


@dataclass(frozen=True, slots=True)
class Spread:
    """strategy: the least that is needed, None where not even shards fit; per_device: bytes on each device by strategy."""

    strategy: Strategy | None
    per_device: dict[str, int]
    sentence: str


def ddp_memory(memory: Memory, trainable: int) -> Memory:
    """Of each process of DistributedDataParallel: everything, and a copy of the gradients in its buckets (Li et al. 2020,
    section 4.2)."""
    return Memory(**{**memory.parts(), "gradients": memory.gradients + 4 * trainable})


def fsdp_memory(memory: Memory, shape: ModelShape, devices: int) -> Memory:
    """Of each process of FSDP2 that shards parameters, gradients and optimiser states (Rajbhandari et al. 2020, section 5,
    stage 3): an equal share, and two blocks at a time in whole, the one in use and the one fetched ahead."""
    parts = memory.parts()
    block = (parts["weights"] + parts["trained"]) // max(shape.layers, 1)
    for name in ("weights", "trained", "gradients", "optimiser"):
        parts[name] = -(-parts[name] // devices)
    parts["weights"] += 2 * block
    return Memory(**parts)


def spread(
    shape: ModelShape, settings: Mapping[str, Any], batch: Batch, *, width: int, devices: int, bytes_each: int
) -> Spread:
    """What is needed for `devices` GPUs of `bytes_each`: one device, DDP, or FSDP2; `batch` is one device's.

    With several devices DDP is preferred wherever the model fits into each, since it moves gradients only. Four-bit
    weights are not sharded here: qlora is single or ddp.
    """
    memory = training_memory(shape, settings, batch, width=width, device="cuda")
    trainable = trainable_parameters(shape, settings)
    per = {"single": memory.needed}
    if devices > 1:
        per["ddp"] = ddp_memory(memory, trainable).needed
        if settings["method"] != "qlora":
            per["fsdp2"] = fsdp_memory(memory, shape, devices).needed
    order: tuple[Strategy, ...] = ("ddp", "fsdp2") if devices > 1 else ("single",)
    found = next((name for name in order if name in per and per[name] <= ROOM * bytes_each), None)
    told = ", ".join(f"{name} {value / 2**30:.1f} GiB" for name, value in per.items())
    verdict = found or "no way to spread it fits"
    return Spread(found, per, f"{verdict}: a device has {bytes_each / 2**30:.1f} GiB, and would need {told}")
