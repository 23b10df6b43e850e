"""Manners of a child process: it dies with its parent, stops on a signal, and leaves no process of its own behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from finetune_pipeline.trainers.exit_codes import EXIT_PREEMPTED

_PARENT = "FINETUNE_PARENT_PID"
_PR_SET_PDEATHSIG = 1


class Stop(BaseException):
    """Raised in the main thread by SIGINT or SIGTERM. No Exception: nothing on the way may take it for a fault."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def die_with_parent() -> None:
    """Linux: be sent SIGTERM when the process named by FINETUNE_PARENT_PID dies, even by SIGKILL. Else a no-op."""
    wanted = os.environ.get(_PARENT)
    if not wanted or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(wanted):  # it died before the call above
        os._exit(EXIT_PREEMPTED)


def stop_on_signals() -> None:
    """Turn the first SIGINT or SIGTERM into :class:`Stop`; later ones are ignored, so that stopping can finish."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)
        raise Stop(number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, stop)


def sweep_group() -> None:
    """Kill what this process started and left in its own process group; only when it leads one for a parent."""
    if not os.environ.get(_PARENT) or os.getpgrp() != os.getpid():
        return
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if os.getpgid(int(entry.name)) == os.getpgrp():
                os.kill(int(entry.name), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # gone meanwhile, or not ours
            continue
