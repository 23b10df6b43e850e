"""Helpers for tests with real processes."""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process is running and no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `condition` holds. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.05)


def number_in(path: Path) -> int:
    """Wait until a process has written a number to a file, which may be missing or empty before. Returns the number."""
    numbers: list[int] = []

    def read() -> bool:
        text = path.read_text("utf-8").strip() if path.exists() else ""
        numbers.extend([int(text)] if text.isdigit() else [])
        return bool(numbers)

    wait_until(read)
    return numbers[0]


def bound_by_permissions() -> None:
    """As `preexec_fn`, apply file permissions to the new process even if it runs as root."""
    if sys.platform == "linux":
        c = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            c.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
