"""Memory of the GPUs, as nvidia-smi tells it: no library of theirs is loaded."""

from __future__ import annotations

import os
import subprocess


def gpu_memory() -> list[int]:
    """Free bytes of each GPU this process may see (CUDA_VISIBLE_DEVICES), in their order.

    Raises ValueError where nvidia-smi is missing, fails, or shows no GPU: a plan must not guess.
    """
    command = ["nvidia-smi", "--query-gpu=index,memory.free", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"the GPUs' memory cannot be read: nvidia-smi failed ({error})") from error
    free: dict[str, int] = {}
    for line in told.splitlines():
        index, _, mib = line.partition(",")
        if mib.strip().isdigit():
            free[index.strip()] = int(mib) * 2**20
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = [free[i.strip()] for i in visible.split(",") if i.strip() in free] if visible else list(free.values())
    if not chosen:
        raise ValueError(f"the GPUs' memory cannot be read: nvidia-smi shows {told.strip()[:200]!r}")
    return chosen
