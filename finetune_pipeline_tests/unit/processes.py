"""Helpers for tests with real processes."""

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finetune_pipeline.cli.main import main
from finetune_pipeline_tests import warm_workers


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


def as_reader(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """A command in a warm process to which the permissions of files apply, with the data and the home below `root`."""
    env = {
        **os.environ,
        **warm_workers.start(),
        "FINETUNE_DATA": str(root / "data"),
        "FINETUNE_HOME": str(root / "home"),
    }
    env.pop("MLFLOW_TRACKING_URI", None)
    command = warm_workers.call_command(call_as_reader, *arguments)
    return subprocess.run(command, env=env, text=True, capture_output=True, check=False)


def call_as_reader(*arguments: str) -> None:
    """Give up root's right to read and write everything, and run a command."""
    if sys.platform == "linux":
        c, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this process
        sets = (ctypes.c_uint32 * 6)()
        assert c.capget(header, sets) == 0
        for kind in (0, 1):  # effective and permitted
            sets[kind] &= ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
        for capability in (1, 2):  # of programs that the command starts
            c.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
        assert c.capset(header, sets) == 0
    sys.argv = ["finetune", *arguments]
    main()
