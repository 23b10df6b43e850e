"""A supervised child process: own session, ticks, time limit, and nothing left behind however it ends.

Start it from a thread that outlives the child: the child asks the kernel to be told when its parent dies
(``PR_SET_PDEATHSIG``), and on Linux that means the thread which started it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TICK_SECONDS = 1.0
PARENT_VARIABLE = "FINETUNE_PARENT_PID"


class Stopped(RuntimeError):
    """The child was stopped by its supervisor: `should_stop` gave a reason, or the time limit was reached."""


def _say_nothing(message: str) -> None:
    del message


def run_supervised(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path | None,
    *,
    pass_fds: Sequence[int] = (),
    grace: tuple[float, float] = (60.0, 10.0),
    should_stop: Callable[[], str | None] = lambda: None,
    on_tick: Callable[[], None] = lambda: None,
    timeout_s: float | None = None,
    log: Callable[[str], None] = _say_nothing,
) -> int:
    """Run `command` to its end and return its exit code (negative: ended by that signal).

    env: the child's whole environment (FINETUNE_PARENT_PID and a marker are added). Standard output and error are ours.
    pass_fds: file descriptors the child inherits. grace: seconds after SIGINT and after SIGTERM before SIGKILL.
    should_stop: asked about once a second; a sentence means: stop the child and raise Stopped with it.
    on_tick: called about once a second, and once after the end. timeout_s: wall-clock limit.
    Raises Stopped; and whatever `should_stop`, `on_tick` or an interrupt raises, after the child and all its
    descendants are gone. Descendants that outlive a child are killed too.
    """
    marker = uuid.uuid4().hex
    environment = {**env, PARENT_VARIABLE: str(os.getpid()), MARKER: marker}
    started = time.monotonic()
    child = subprocess.Popen(list(command), cwd=cwd, env=environment, start_new_session=True, pass_fds=tuple(pass_fds))
    try:
        log(f"started process {child.pid}")
        while True:
            try:
                code = child.wait(timeout=TICK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                on_tick()
                if reason := should_stop():
                    raise Stopped(reason) from None
                if timeout_s is not None and time.monotonic() - started > timeout_s:
                    raise Stopped(f"it ran longer than its limit of {timeout_s:g} s") from None
    except BaseException:
        _end(child.pid, marker, child.poll, grace, log)
        child.wait()
        raise
    _kill(child.pid, marker, child.poll, lambda _: log("the process left others running; ending them"))
    on_tick()
    return code


MARKER = "FINETUNE_SUPERVISED"
_PROC = Path("/proc")


def living(group: int, marker: str) -> list[int]:
    """Process ids of the group or with the marker that still run. Zombies do not count: unreaped, they stay."""
    if not _PROC.is_dir():
        return [group] if _answers(group) else []
    wanted = f"{MARKER}={marker}".encode()
    return sorted(pid for pid in _process_ids() if _runs_in(pid, group) or _carries(pid, wanted))


def signal_all(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to each process; those that ended meanwhile are none of our business."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _end(
    group: int, marker: str, reap: Callable[[], object], grace: tuple[float, float], log: Callable[[str], None]
) -> None:
    """SIGINT, then SIGTERM, then SIGKILL to every living process, waiting `grace` seconds after the first two.

    `reap` collects the direct child. An exception while waiting (a second Ctrl-C) means: kill now.
    """
    try:
        for number, seconds in zip((signal.SIGINT, signal.SIGTERM), grace, strict=True):
            pids = living(group, marker)
            if not pids or seconds <= 0:
                continue
            log(f"sending {number.name} to {_count(pids)} of the training, waiting up to {seconds:g} s")
            signal_all(pids, number)
            limit = time.monotonic() + seconds
            while time.monotonic() < limit and living(group, marker):
                reap()
                time.sleep(0.1)
    finally:
        _kill(group, marker, reap, log)


def _kill(group: int, marker: str, reap: Callable[[], object], log: Callable[[str], None]) -> int:
    """SIGKILL until nothing is left (new processes may appear while we look). Returns how many were killed."""
    killed: set[int] = set()
    limit = time.monotonic() + 30
    while pids := living(group, marker):
        if fresh := [p for p in pids if p not in killed]:
            log(f"sending SIGKILL to {_count(fresh)} of the training that did not end")
        signal_all(pids, signal.SIGKILL)
        killed.update(pids)
        reap()
        if time.monotonic() > limit:
            raise RuntimeError(
                f"processes {pids} survive SIGKILL (waiting in the kernel?): look at "
                "`ps -o pid,stat,wchan` and free what they wait for"
            )
        time.sleep(0.05)
    reap()
    return len(killed)


def _count(pids: list[int]) -> str:
    return f"{len(pids)} process{'es' if len(pids) > 1 else ''}"


def _process_ids() -> list[int]:
    own = os.getpid()
    return [int(name) for name in os.listdir(_PROC) if name.isdigit() and int(name) != own]


def _runs_in(pid: int, group: int) -> bool:
    state, process_group = _stat(pid)
    return process_group == group and state not in "ZX"


def _carries(pid: int, wanted: bytes) -> bool:
    try:
        environment = (_PROC / str(pid) / "environ").read_bytes()
    except (OSError, ValueError):  # ended meanwhile, or another user's
        return False
    return wanted in environment.split(b"\0") and _stat(pid)[0] not in "ZX"


def _stat(pid: int) -> tuple[str, int]:
    """State letter and process group; ("X", -1) for a process that is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return "X", -1
    fields = text.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return fields[0], int(fields[2])


def _answers(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
