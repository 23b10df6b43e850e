"""A supervised child process: own session, ticks, time limit, and nothing left behind however it ends.

Start it from a thread that outlives the child: the child asks the kernel to be told when its parent dies
(``PR_SET_PDEATHSIG``), and on Linux that means the thread which started it.
"""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from finetune_pipeline.worker import process_group

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
    environment = {**env, PARENT_VARIABLE: str(os.getpid()), process_group.MARKER: marker}
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
        process_group.end(child.pid, marker, child.poll, grace, log)
        child.wait()
        raise
    process_group.kill(child.pid, marker, child.poll, lambda _: log("the process left others running; ending them"))
    on_tick()
    return code
