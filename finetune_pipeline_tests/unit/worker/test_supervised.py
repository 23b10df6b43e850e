"""A supervised child: its exit code comes back, and however it ends nothing of it goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from finetune_pipeline.worker.supervised import Stopped, run_supervised
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until

STUBBORN = "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]"
GRANDCHILD = f"""
import os, signal, subprocess, sys, time
p = subprocess.Popen([sys.executable, "-c", "import signal, time; {STUBBORN}; time.sleep(600)"], start_new_session=NEW)
open(FOLDER + "/grandchild", "w").write(str(p.pid))
open(FOLDER + "/child", "w").write(str(os.getpid()))
"""


def script(folder: Path, body: str, new_session: bool = False) -> list[str]:
    return [sys.executable, "-c", f"FOLDER, NEW = {str(folder)!r}, {new_session}\n{body}"]


def nothing_runs(folder: Path) -> bool:
    return not any(is_running(number_in(folder / name)) for name in ("child", "grandchild"))


@pytest.mark.parametrize(
    ("body", "code"), [("raise SystemExit(3)", 3), ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL)]
)
def test_exit_codes_and_signals_come_back(body: str, code: int) -> None:
    assert run_supervised([sys.executable, "-c", body], os.environ) == code


def test_a_child_knows_its_parent_and_runs_in_its_own_session_with_ticks(tmp_path: Path) -> None:
    ticks: list[int] = []
    body = (
        "import os, time; open(FOLDER + '/seen', 'w').write(' '.join(map(str, [os.environ['FINETUNE_PARENT_PID'], "
        "os.getppid(), os.getsid(0) == os.getpid()]))); time.sleep(1.2)"
    )
    run_supervised(script(tmp_path, body), os.environ, on_tick=lambda: ticks.append(1))
    assert (tmp_path / "seen").read_text() == f"{os.getpid()} {os.getpid()} True"
    assert len(ticks) >= 2  # the last one is after the end


def test_a_stop_lets_the_child_write_its_checkpoint(tmp_path: Path) -> None:
    body = """
import os, signal, sys, time
def stop(number, frame):
    open(FOLDER + "/checkpoint", "w").write("kept")
    sys.exit(85)
signal.signal(signal.SIGINT, stop)
open(FOLDER + "/ready", "w").write("1")
time.sleep(600)
"""
    with pytest.raises(Stopped, match="somebody said so"):
        run_supervised(
            script(tmp_path, body), os.environ, grace=(20.0, 20.0),
            should_stop=lambda: "somebody said so" if (tmp_path / "ready").exists() else None,
        )  # fmt: skip
    assert (tmp_path / "checkpoint").read_text() == "kept"


def test_child_and_grandchild_that_ignore_signals_are_killed(tmp_path: Path) -> None:
    messages: list[str] = []
    body = f"{GRANDCHILD}\n{STUBBORN}\nopen(FOLDER + '/ready', 'w').write('1'); time.sleep(600)"
    with pytest.raises(Stopped):
        run_supervised(
            script(tmp_path, body, new_session=True), os.environ, grace=(1.0, 1.0), log=messages.append,
            should_stop=lambda: "stop" if (tmp_path / "ready").exists() else None,
        )  # fmt: skip
    assert nothing_runs(tmp_path)
    assert [m.split()[1] for m in messages if m.startswith("sending")] == ["SIGINT", "SIGTERM", "SIGKILL"]


@pytest.mark.parametrize("new_session", [False, True], ids=["in the group", "in a session of its own"])
def test_a_grandchild_left_over_by_a_good_end_is_killed_and_others_are_not(tmp_path: Path, new_session: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as bystander:
        assert run_supervised(script(tmp_path, GRANDCHILD, new_session), os.environ) == 0
        assert nothing_runs(tmp_path) and is_running(bystander.pid)
        bystander.kill()


def test_a_time_limit_and_an_exception_in_a_tick_end_everything(tmp_path: Path) -> None:
    body = GRANDCHILD + "\ntime.sleep(600)"
    with pytest.raises(Stopped, match=r"longer than its limit of 1\.5 s"):
        run_supervised(script(tmp_path, body), os.environ, timeout_s=1.5, grace=(0.5, 0.5))
    assert nothing_runs(tmp_path)
    (tmp_path / "child").unlink()

    def fail() -> None:
        if (tmp_path / "child").exists():
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_supervised(script(tmp_path, body), os.environ, on_tick=fail, grace=(1.0, 1.0))
    assert nothing_runs(tmp_path)


def test_a_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    # a shell that starts the tests in the background has them ignore interrupts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    body = (
        "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "open(FOLDER + '/child', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )

    def interrupt_twice() -> None:
        wait_until((tmp_path / "child").exists)
        for _ in range(2):
            time.sleep(0.7)
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_twice)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_supervised(script(tmp_path, body), os.environ, grace=(600.0, 600.0))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_running(number_in(tmp_path / "child"))
