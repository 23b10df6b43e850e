"""What the processor can do, without a model library."""

from __future__ import annotations

from pathlib import Path

_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (avx512_bf16 or amx_bf16, on ARM bf16). Unknown counts as no."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return False
    for line in text.splitlines():
        if line.lower().startswith(("flags", "features")):
            return bool(_CPU_FLAGS & set(line.split(":", 1)[-1].split()))
    return False


def has_nvidia() -> bool:
    """Whether an NVIDIA device is to be seen here."""
    return Path("/dev/nvidiactl").exists()
