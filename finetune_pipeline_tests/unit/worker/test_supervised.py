"""A supervised child: its exit code comes back, and however it ends nothing of it goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.worker.supervised import Stopped, run_supervised
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until

STUBBORN = "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]"
GRANDCHILD = f"""
p = subprocess.Popen([sys.executable, "-c", "import signal, time; {STUBBORN}; time.sleep(600)"], start_new_session=NEW)
tell("grandchild", p.pid)
tell("child", os.getpid())
"""


def run(folder: Path, body: str, new_session: bool = False, **more: Any) -> int:
    """Run a child that tells things by files of the folder."""
    begin = f"""
import os, signal, subprocess, sys, time
NEW = {new_session}
def tell(name, what):
    open({str(folder)!r} + "/" + name, "w").write(str(what))
"""
    return run_supervised([sys.executable, "-c", f"{begin}\n{body}"], os.environ, **more)


def stop_when(path: Path) -> Callable[[], str | None]:
    return lambda: "somebody said so" if path.exists() else None


def nothing_runs(folder: Path) -> bool:
    return not any(is_running(number_in(folder / name)) for name in ("child", "grandchild"))


def test_exit_codes_and_signals_come_back_and_a_child_knows_its_parent(tmp_path: Path) -> None:
    ticks: list[int] = []
    body = (
        "tell('seen', [os.environ['FINETUNE_PARENT_PID'], os.getppid(), os.getsid(0) == os.getpid()])\n"
        "time.sleep(1.2)\nsys.exit(3)"
    )
    assert run(tmp_path, body, on_tick=lambda: ticks.append(1)) == 3
    assert (tmp_path / "seen").read_text() == str([str(os.getpid()), os.getpid(), True])
    assert len(ticks) >= 2  # the last one is after the end
    assert run(tmp_path, "os.kill(os.getpid(), 9)") == -signal.SIGKILL


def test_a_stop_lets_the_child_write_its_checkpoint(tmp_path: Path) -> None:
    body = """
def stop(number, frame):
    tell("checkpoint", "kept")
    sys.exit(85)
signal.signal(signal.SIGINT, stop)
tell("ready", 1)
time.sleep(600)
"""
    with pytest.raises(Stopped, match="somebody said so"):
        run(tmp_path, body, grace=(20.0, 20.0), should_stop=stop_when(tmp_path / "ready"))
    assert (tmp_path / "checkpoint").read_text() == "kept"


def test_child_and_grandchild_that_ignore_signals_are_killed(tmp_path: Path) -> None:
    messages: list[str] = []
    body = f"{GRANDCHILD}\n{STUBBORN}\ntell('ready', 1); time.sleep(600)"
    stop = stop_when(tmp_path / "ready")
    with pytest.raises(Stopped):
        run(tmp_path, body, new_session=True, grace=(0.5, 0.5), log=messages.append, should_stop=stop)
    assert nothing_runs(tmp_path)
    assert [m.split()[1] for m in messages if m.startswith("sending")] == ["SIGINT", "SIGTERM", "SIGKILL"]


@pytest.mark.parametrize("new_session", [False, True], ids=["in the group", "in a session of its own"])
def test_a_grandchild_left_over_by_a_good_end_is_killed_and_others_are_not(tmp_path: Path, new_session: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as bystander:
        assert run(tmp_path, GRANDCHILD, new_session) == 0
        assert nothing_runs(tmp_path) and is_running(bystander.pid)
        bystander.kill()


def test_an_exception_in_a_tick_ends_everything(tmp_path: Path) -> None:
    body = GRANDCHILD + "\ntime.sleep(600)"

    def fail() -> None:
        if (tmp_path / "child").exists():
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run(tmp_path, body, on_tick=fail, grace=(0.5, 0.5))
    assert nothing_runs(tmp_path)


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    def interrupt_twice() -> None:
        wait_until((tmp_path / "child").exists)
        for _ in range(2):
            time.sleep(0.7)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_twice)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, f"{STUBBORN}\ntell('child', os.getpid())\ntime.sleep(600)", grace=(600.0, 600.0))
    thread.join()
    assert not is_running(number_in(tmp_path / "child"))
