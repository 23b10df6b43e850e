"""How much memory a training may take on this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil

VARIABLE = "FINETUNE_MEMORY_GIB"
_GROUP = Path("/sys/fs/cgroup")


def available_memory(device: str, group: Path = _GROUP) -> int:
    """Free bytes: FINETUNE_MEMORY_GIB where it is set; else of the GPU with the least, or of the machine, and no more than
    the container's limit leaves.

    Raises:
        ValueError: The variable is not a number, or a GPU's memory cannot be read.
    """
    if gib := os.environ.get(VARIABLE, "").strip():
        try:
            return int(float(gib) * 2**30)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{VARIABLE}={gib!r} is not a number of GiB") from error
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


def gpu_memory() -> list[int]:
    """Free bytes of each GPU this process may see (CUDA_VISIBLE_DEVICES), by nvidia-smi.

    Raises:
        ValueError: nvidia-smi is missing, fails, or shows no GPU. A plan must not guess.
    """
    command = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"the GPUs' memory cannot be read: nvidia-smi failed ({error})") from error
    free: dict[str, int] = {}
    for line in output.splitlines():
        index, _, mib = line.partition(",")
        if mib.strip().isdigit():
            free[index.strip()] = int(mib) * 2**20
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [free[i.strip()] for i in visible.split(",") if i.strip() in free] if visible else list(free.values())
    if not chosen:
        raise ValueError(f"the GPUs' memory cannot be read: nvidia-smi shows {output.strip()[:200]!r}")
    return chosen
