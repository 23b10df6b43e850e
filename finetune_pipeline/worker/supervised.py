"""A supervised child process: own session, heartbeat, time limit, and no leftover processes.

Start it from a thread that outlives the child: the child asks the kernel to be told when its parent dies
(``PR_SET_PDEATHSIG``), and on Linux that means the thread which started it.
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
    """The child was stopped by its supervisor: `should_stop` gave a reason."""


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
    """Run `command` to its end and return its exit code (negative: ended by that signal).

    env: the child's whole environment (FINETUNE_PARENT_PID and a marker are added). pass_fds: file descriptors the child
    inherits. grace: seconds after SIGINT and after SIGTERM before SIGKILL. should_stop: asked about once a second; a sentence
    means: stop the child and raise Stopped with it. on_tick: called about once a second, and once after the end.
    Raises Stopped; and whatever `should_stop`, `on_tick` or an interrupt raises, after the child and all its descendants are
    gone. Descendants that outlive a child are killed too.
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
    _kill(child.pid, marker, child.poll, lambda _: log("the process left others running; ending them"))
    on_tick()
    return code


def end_marked(marker: str) -> None:
    """End every process that inherited a value of the variable :data:`MARKER`: SIGTERM, and SIGKILL 5 seconds later."""
    _end(-1, marker, lambda: None, (0.0, 5.0), lambda message: None)


def _living(group: int, marker: str) -> list[psutil.Process]:
    """Processes of the child's group, and descendants that left it (compiler pools do): those inherit the marker."""
    processes = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            ours = os.getpgid(process.pid) == group or process.environ().get(MARKER) == marker
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
    return processes


def _end(
    group: int, marker: str, reap: Callable[[], object], grace: tuple[float, float], log: Callable[[str], None]
) -> None:
    """SIGINT, then SIGTERM, then SIGKILL to every living process, waiting `grace` seconds after the first two.
    `reap` collects the direct child. An exception while waiting (a second Ctrl-C) means: kill now."""
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
    """SIGKILL until nothing is left (new processes may appear while we look)."""
    killed: set[psutil.Process] = set()
    limit = time.monotonic() + 30
    while processes := _living(group, marker):
        if fresh := [p for p in processes if p not in killed]:
            log(f"sending SIGKILL to {_count(fresh)} of the training that did not end")
        _signal(processes, signal.SIGKILL)
        killed.update(processes)
        reap()
        if time.monotonic() > limit:
            fix = "look at `ps -o pid,stat,wchan` and free what they wait for"
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
