"""Exit codes by which a training process tells its starter whether another try can help."""

from __future__ import annotations

EXIT_CONFIG = 64
"""The job, its data or its configuration is wrong: the same job can only fail again."""

EXIT_OOM = 75
"""Out of memory: the same job needs the same memory again."""

EXIT_PREEMPTED = 85
"""Told to stop by a signal; the checkpoint is kept, and another try takes it up."""

NO_RETRY = frozenset({EXIT_CONFIG, EXIT_OOM})


def describe(code: int) -> str:
    """An exit code in words, for a log line or an error. Negative codes are signals, as subprocess returns them."""
    import signal

    named = {
        0: "ended well",
        EXIT_CONFIG: "refused the job: its configuration or data is wrong",
        EXIT_OOM: "ran out of memory",
        EXIT_PREEMPTED: "stopped by a signal, checkpoint kept",
    }
    if code in named:
        return f"{named[code]} (exit code {code})"
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = ", most often the kernel's out-of-memory killer" if name == "SIGKILL" else ""
        return f"killed by {name}{hint} (exit code {code})"
    return f"failed (exit code {code})"
