"""A supervised child process: own session, heartbeat, time limit, and no leftover processes.

Start it from a thread that lives longer than the child: the child requests a signal for its parent's death
(``PR_SET_PDEATHSIG``), which on Linux means the death of the starting thread.
"""

import contextlib
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence

import psutil

from finetune_pipeline.worker.process import PARENT_VARIABLE

TICK_SECONDS = 1.0
MARKER = "FINETUNE_SUPERVISED"


class Stopped(RuntimeError):
    """The supervisor stopped the child: `should_stop` gave a reason."""


def run_supervised(
    command: Sequence[str],
    env: Mapping[str, str],
    *,
    pass_fds: Sequence[int] = (),
    grace: tuple[float, float] = (60.0, 10.0),
    should_stop: Callable[[], str | None] = lambda: None,
    on_tick: Callable[[], None] = lambda: None,
    log: Callable[[str], None] = lambda message: None,
) -> int:
    """Run `command` and return its exit code (negative: the signal that ended it).

    env: the child's complete environment (FINETUNE_PARENT_PID and a marker are added). pass_fds: file descriptors the child
    inherits. grace: seconds after SIGINT and after SIGTERM before SIGKILL. should_stop: called about once a second; if it
    returns a sentence, the child is stopped and Stopped raised with it. on_tick: called about once a second, and once after
    the end. Raises Stopped, and exceptions of `should_stop`, `on_tick` and interrupts, after ending the child and all its
    descendants. Also kills descendants that are left after the child has ended.
    """
    marker = uuid.uuid4().hex
    environment = {**env, PARENT_VARIABLE: str(os.getpid()), MARKER: marker}
    child = subprocess.Popen(list(command), env=environment, start_new_session=True, pass_fds=tuple(pass_fds))
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
    except BaseException:
        _end(child.pid, marker, child.poll, grace, log)
        child.wait()
        raise
    _kill(child.pid, marker, child.poll, lambda _: log("the process left other processes running; ending them"))
    on_tick()
    return code


def _living(group: int, marker: str) -> list[psutil.Process]:
    """Return the processes of the child's group, and descendants outside it (compiler pools), which inherit the marker."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            is_descendant = os.getpgid(process.pid) == group or process.environ().get(MARKER) == marker
            if is_descendant and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def _end(
    group: int, marker: str, reap: Callable[[], object], grace: tuple[float, float], log: Callable[[str], None]
) -> None:
    """Send SIGINT, then SIGTERM, then SIGKILL to every living process, waiting `grace` seconds after the first two.
    `reap` collects the direct child. An exception while waiting (a second Ctrl-C) kills at once."""
    try:
        for number, seconds in zip((signal.SIGINT, signal.SIGTERM), grace, strict=True):
            processes = _living(group, marker)
            if not processes or seconds <= 0:
                continue
            log(f"sending {number.name} to {_count(processes)} of the training, waiting up to {seconds:g} s")
            _signal(processes, number)
            limit = time.monotonic() + seconds
            while time.monotonic() < limit and _living(group, marker):
                reap()
                time.sleep(0.1)
    finally:
        _kill(group, marker, reap, log)


def _kill(group: int, marker: str, reap: Callable[[], object], log: Callable[[str], None]) -> None:
    """Send SIGKILL until no process is left; new ones may appear meanwhile."""
    killed: set[psutil.Process] = set()
    limit = time.monotonic() + 30
    while processes := _living(group, marker):
        if fresh := [p for p in processes if p not in killed]:
            log(f"sending SIGKILL to {_count(fresh)} of the training that did not end")
        _signal(processes, signal.SIGKILL)
        killed.update(processes)
        reap()
        if time.monotonic() > limit:
            fix = "see `ps -o pid,stat,wchan` for what they wait for, and free it"
            raise RuntimeError(
                f"processes {[p.pid for p in processes]} survive SIGKILL (waiting in the kernel?): {fix}"
            )
        time.sleep(0.05)
    reap()


def _signal(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _count(processes: list[psutil.Process]) -> str:
    return f"{len(processes)} process{'es' if len(processes) > 1 else ''}"
