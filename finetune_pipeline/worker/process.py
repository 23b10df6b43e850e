"""Conduct of a child process: it dies with its parent, stops on a signal, and leaves no process behind."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from types import FrameType

import psutil

PARENT_VARIABLE = "FINETUNE_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_SPINS, _MOST_SPINS = "GOMP_SPINCOUNT", "3500"
"""Measured in benchmarks/results/2026-11-29-order-intake.txt: fewer gain less, more gain no more."""
_BUSY_CORES, _MEASURED_S = 0.5, 0.2
_LOOK_EVERY_S = 1.0
_GRACE_S = 5.0


def keep_freed_memory(mapped_from: int = 1 << 30, given_back_from: int = 1 << 30) -> None:
    """Make glibc's allocator keep and reuse memory that torch frees; elsewhere a no-op.

    By its own limits (32 and 64 MiB at most) large tensors are mapped anew each time, and the kernel clears every page:
    a tenth of a training step's processor time on a CPU. What is kept at once is not more than without.
    mapped_from: blocks of so many bytes are mapped separately; given_back_from: more free bytes go back to the system.
    """
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for most in (32 << 20, mapped_from):  # an older glibc takes no more than the first
            libc.mallopt(_M_MMAP_THRESHOLD, most)
        libc.mallopt(_M_TRIM_THRESHOLD, given_back_from)


def collect_garbage_rarely() -> None:
    """Search for unreachable cycles 300 times less often than Python's default.

    Importing torch, transformers and PEFT creates millions of objects that stay; searching them takes a fifth of the import's
    processor time, in every process.
    """
    gc.set_threshold(200_000, 50, 10)


def spin_if_alone() -> None:
    """Let torch's threads wait some microseconds for work before they sleep, if no other process computes now (libgomp).
    Call it before torch is imported.

    A training step on a CPU consists of thousands of short operations, and waking a thread for each takes a fifth of its time.
    Beside another process threads that wait would take the cores it needs, so there they sleep at once.
    """
    if "torch" not in sys.modules and _SPINS not in os.environ and cores_in_use() < _BUSY_CORES:
        os.environ[_SPINS] = _MOST_SPINS


def cores_in_use() -> float:
    """Return how many of the machine's cores other processes keep busy, measured for a fifth of a second."""
    return psutil.cpu_percent(_MEASURED_S) / 100 * (os.cpu_count() or 1)


class Stop(BaseException):
    """Raised in the main thread by SIGINT or SIGTERM. Not an Exception, so that nothing handles it as an error."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


def die_with_parent() -> None:
    """Linux: be sent SIGTERM when the process named by FINETUNE_PARENT_PID dies, even by SIGKILL. Else a no-op."""
    wanted = os.environ.get(PARENT_VARIABLE)
    if not wanted or not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(wanted):  # it died before the call above
        os._exit(EXIT_PREEMPTED)


def watch_parent() -> None:
    """End this process soon after its parent is gone, even while its main thread waits in an exchange with others.
    Signal handlers run only when the main thread comes back to Python; waiting for a process that died, it may not."""
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        time.sleep(_GRACE_S)
        sweep_group()
        os._exit(EXIT_PREEMPTED)

    threading.Thread(target=look, daemon=True, name="watch-parent").start()


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
    if not os.environ.get(PARENT_VARIABLE) or os.getpgrp() != os.getpid():
        return
    for pid in set(psutil.pids()) - {os.getpid()}:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone meanwhile, or not ours
            if os.getpgid(pid) == os.getpgrp():
                os.kill(pid, signal.SIGKILL)


def end_by(number: int) -> None:
    """End by the same signal as another process, so that our parent sees what happened."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


EXIT_CONFIG = 64
"""The job, its data or its configuration is wrong: the same job can only fail again."""

EXIT_OOM = 75
"""Out of memory: the same job needs the same memory again."""

EXIT_PREEMPTED = 85
"""Stopped by a signal; the checkpoint is kept, and the next attempt resumes from it."""

NO_RETRY = frozenset({EXIT_CONFIG, EXIT_OOM})


def describe(code: int) -> str:
    """An exit code in words, for a log line or an error. Negative codes are signals, as subprocess returns them."""
    named = {
        0: "ended well",
        EXIT_CONFIG: "refused the job: its configuration or data is wrong",
        EXIT_OOM: "ran out of memory",
        EXIT_PREEMPTED: "stopped by a signal, checkpoint kept",
    }
    if code in named:
        return f"{named[code]} (exit code {code})"
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", most often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
        return f"killed by {name}{hint} (exit code {code})"
    return f"failed (exit code {code})"
