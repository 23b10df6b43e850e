"""Setup of a child process: it ends with its parent, stops on a signal, and leaves no processes behind."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
from types import FrameType

import psutil

PARENT_VARIABLE = "FINETUNE_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_SPINS, _MOST_SPINS = "GOMP_SPINCOUNT", "3500"
"""Measured in benchmarks/results/2026-11-29-order-intake.txt: fewer spins gain less, and more gain nothing."""
_BUSY_CORES, _MEASURED_S = 0.5, 0.2


def collect_garbage_rarely() -> None:
    """Search for unreachable cycles 300 times less often than Python's default.

    Importing torch, transformers and PEFT creates millions of permanent objects; searching them takes a fifth of the import's
    processor time in every process.
    """
    gc.set_threshold(200_000, 50, 10)


def spin_if_alone() -> None:
    """Let torch's threads spin for some microseconds before they sleep, if no other process is computing (libgomp).
    Call it before torch is imported.

    A training step on a CPU consists of thousands of short operations, and waking threads for each takes a fifth of its time.
    If another process is computing, threads sleep at once, since spinning would take its cores.
    """
    if "torch" not in sys.modules and _SPINS not in os.environ and cores_in_use() < _BUSY_CORES:
        os.environ[_SPINS] = _MOST_SPINS


def cores_in_use() -> float:
    """Return how many of the machine's cores other processes keep busy, measured for a fifth of a second."""
    return psutil.cpu_percent(_MEASURED_S) / 100 * (os.cpu_count() or 1)


class Stop(BaseException):
    """Raised in the main thread by SIGINT or SIGTERM. Not an Exception: code that handles errors must not catch it."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def die_with_parent() -> None:
    """On Linux, request SIGTERM for when the parent process (FINETUNE_PARENT_PID) dies, even by SIGKILL; elsewhere a no-op."""
    parent_id = os.environ.get(PARENT_VARIABLE)
    if not parent_id or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent_id):  # the parent died before the call above
        os._exit(EXIT_PREEMPTED)


def stop_on_signals() -> None:
    """Raise :class:`Stop` on the first SIGINT or SIGTERM, and ignore later ones while stopping."""

    def stop(number: int, _frame: FrameType | None) -> None:
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signal_number, signal.SIG_IGN)
        raise Stop(number)

    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, stop)


def sweep_group() -> None:
    """Kill the remaining processes in this process's group, if it leads a group for a parent."""
    if not os.environ.get(PARENT_VARIABLE) or os.getpgrp() != os.getpid():
        return
    for pid in set(psutil.pids()) - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # ended meanwhile, or another user's
            if os.getpgid(pid) == os.getpgrp():
                os.kill(pid, signal.SIGKILL)


EXIT_CONFIG = 64
"""The job, its data or its configuration is wrong: the same job would fail again."""

EXIT_OOM = 75
"""Out of memory: the same job would need the same memory."""

EXIT_PREEMPTED = 85
"""Stopped by a signal; the checkpoint is kept, and the next attempt resumes from it."""

NO_RETRY = frozenset({EXIT_CONFIG, EXIT_OOM})


def describe(code: int) -> str:
    """Describe an exit code for a log line or an error. Negative codes are signals, as subprocess returns them."""
    descriptions = {
        0: "ended well",
        EXIT_CONFIG: "refused the job: its configuration or data is wrong",
        EXIT_OOM: "ran out of memory",
        EXIT_PREEMPTED: "stopped by a signal, checkpoint kept",
    }
    if code in descriptions:
        return f"{descriptions[code]} (exit code {code})"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", most often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
        return f"killed by {name}{hint} (exit code {code})"
    return f"failed (exit code {code})"
