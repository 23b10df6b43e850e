"""How much memory a training may take here."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from finetune_pipeline.planning.gpus import gpu_memory

VARIABLE = "FINETUNE_MEMORY_GIB"
_GROUP = Path("/sys/fs/cgroup")


def available_memory(device: str, group: Path = _GROUP) -> int:
    """Bytes that are free: FINETUNE_MEMORY_GIB where it is set; else of the GPU with the least, or of the machine, and no
    more than the container's limit leaves.

    Raises ValueError for a variable that is no number, and where a GPU's memory cannot be read.
    """
    if told := os.environ.get(VARIABLE, "").strip():
        try:
            return int(float(told) * 2**30)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{VARIABLE}={told!r} is no number of GiB") from error
    if device != "cpu":
        return min(gpu_memory())
    return min(int(psutil.virtual_memory().available), _left_in(group))


def _left_in(group: Path) -> int:
    """What a control group's limit leaves (cgroup v2): cached files are given back when memory is short."""
    try:
        limit = int((group / "memory.max").read_text("utf-8"))
        used = int((group / "memory.current").read_text("utf-8"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines())
    except (OSError, ValueError):  # no such group, or no limit ("max")
        return 1 << 62
    return max(0, limit - used + int(stat.get("inactive_file", 0)))
