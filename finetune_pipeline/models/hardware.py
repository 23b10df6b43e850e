"""Detects the processor's capabilities, without a model library."""

import platform
from pathlib import Path

_CPU_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 natively (avx512_bf16 or amx_bf16, on ARM bf16). False if unknown."""
    return bool(_CPU_FLAGS & set(_cpu_field("flags", "features").split()))


def cpu_model() -> str:
    """Return the processor's name, or its architecture if the kernel reports no name."""
    return _cpu_field("model name") or platform.machine()


def _cpu_field(*names: str) -> str:
    """Return the first field with one of these names in the kernel's CPU description; empty if there is none."""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return ""
    for line in text.splitlines():
        if line.lower().startswith(names):
            return line.split(":", 1)[-1].strip()
    return ""


def has_nvidia() -> bool:
    """Whether an NVIDIA device is visible."""
    return Path("/dev/nvidiactl").exists()
