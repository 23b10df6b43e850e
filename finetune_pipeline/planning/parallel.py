"""How several devices share one training, and what cannot be shared. No torch: told before anything is loaded.

``ddp`` (distributed data parallel): every device holds the whole model and takes its part of each batch. ``fsdp2`` (fully
sharded data parallel): the model's weights, and in full fine-tuning gradients and optimiser states too, are split over the
devices and fetched layer by layer (Zhao et al. 2023, arXiv:2304.11277).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.findings import Finding

ROOM = 0.8
"""Share of a device's memory that a training may be planned to take; the rest is for fragmentation and peaks."""


def strategy(needed: int, device_bytes: int, wanted: str = "auto") -> tuple[str, str]:
    """(``ddp`` or ``fsdp2``, why) for a training that needs `needed` bytes on one device of `device_bytes`.

    wanted: ``auto``, or the strategy somebody decided on. ddp is the simpler and the faster one wherever the model fits.
    """
    if wanted != "auto":
        return wanted, f"as FINETUNE_PARALLEL={wanted} says"
    gib = f"{needed / 2**30:.1f} GiB of {device_bytes / 2**30:.1f} GiB a device"
    if needed <= ROOM * device_bytes:
        return "ddp", f"it fits on one device ({gib})"
    return "fsdp2", f"it does not fit on one device ({gib})"


def per_process(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Rows per forward pass and process: the largest number up to micro_batch_size with which all of them together make
    batch_size in whole passes. `processes` must divide batch_size."""
    share = batch_size // processes
    return max(n for n in range(1, min(micro_batch_size, share) + 1) if share % n == 0)


def refusals(settings: Mapping[str, Any], processes: int, chosen: str) -> list[Finding]:
    """Everything that speaks against `processes` processes training by `settings` with the strategy `chosen`."""
    found = []
    batch = settings["batch_size"]
    if batch % processes:
        near = max(processes, batch - batch % processes)
        found.append(
            _finding(
                "batch_over_devices",
                "training.batch_size",
                f"a batch of {batch} rows cannot be shared equally by {processes} processes",
                f"set training.batch_size: {near} or {near + processes}, or give FINETUNE_DEVICES another number of devices",
            )
        )
    if chosen == "fsdp2" and settings["method"] == "qlora":
        found.append(
            _finding(
                "four_bit_sharded",
                "training.method",
                "4-bit weights are not split over devices: the constants they are read back with belong to whole tensors",
                "set FINETUNE_PARALLEL=ddp if the base fits on each device in four bits, or set training.method: lora, "
                "which is sharded in 16 bits",
            )
        )
    return found


def least_bytes(weight_bytes_16: int, settings: Mapping[str, Any], precision_bytes: int) -> int:
    """What weights, gradients and optimiser states take at the least, in bytes; activations come on top.

    weight_bytes_16: the base's parameters at two bytes each; precision_bytes: bytes of a weight in the compute dtype.
    full: float32 weight, gradient, and two moments, 16 bytes a parameter (Rajbhandari et al. 2020, arXiv:1910.02054,
    section 3.1, without their 16-bit copies). qlora: half a byte and the constants.
    """
    parameters = weight_bytes_16 // 2
    if settings["method"] == "full":
        return parameters * 16
    if settings["method"] == "qlora":
        return int(parameters * (0.5 + 0.127 / 8))
    return parameters * precision_bytes


def _finding(rule: str, key: str, message: str, fix: str) -> Finding:
    return Finding(f"training.{rule}", "error", f"task.yaml: {key}", message, fix)
