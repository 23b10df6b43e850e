"""Helpers for tests that start real processes."""

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path


def is_running(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until `condition` holds; fail the test if it does not in time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds:g} s"
        time.sleep(0.05)


def number_in(path: Path) -> int:
    """The number a process wrote into a file, once it has. It may be written anew meanwhile: empty for a moment."""
    found: list[int] = []

    def read() -> bool:
        text = path.read_text("utf-8").strip() if path.exists() else ""
        found.extend([int(text)] if text.isdigit() else [])
        return bool(found)

    wait_until(read)
    return found[0]


def bound_by_permissions() -> None:
    """For `preexec_fn`: what the process starts is bound by the permissions of files, even if it is root's."""
    if sys.platform == "linux":
        c = ctypes.CDLL(None)
        for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
            c.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
