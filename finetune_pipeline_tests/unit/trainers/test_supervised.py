from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from finetune_pipeline.worker.process import EXIT_CONFIG, EXIT_OOM, EXIT_PREEMPTED, NO_RETRY, describe
from finetune_pipeline.worker.supervised import Stopped, run_supervised
from finetune_pipeline_tests.unit.processes import is_running, number_in, wait_until

GRANDCHILD = """
import os, signal, subprocess, sys, time
p = subprocess.Popen([sys.executable, "-c", "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
                      "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"], start_new_session=NEW)
open(FOLDER + "/grandchild", "w").write(str(p.pid))
open(FOLDER + "/child", "w").write(str(os.getpid()))
"""


def script(folder: Path, body: str, new_session: bool = False) -> list[str]:
    return [sys.executable, "-c", f"FOLDER, NEW = {str(folder)!r}, {new_session}\n{body}"]


def env() -> dict[str, str]:
    return dict(os.environ)


def test_exit_codes_come_back() -> None:
    for code in (0, 3, EXIT_CONFIG):
        assert run_supervised([sys.executable, "-c", f"raise SystemExit({code})"], env(), None) == code


def test_a_signal_comes_back_as_a_negative_code() -> None:
    command = [sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
    assert run_supervised(command, env(), None) == -signal.SIGKILL


def test_ticks_about_once_a_second_and_once_at_the_end() -> None:
    ticks: list[float] = []
    run_supervised(
        [sys.executable, "-c", "import time; time.sleep(2.5)"],
        env(),
        None,
        on_tick=lambda: ticks.append(time.monotonic()),
    )
    assert len(ticks) == 3
    assert ticks[1] - ticks[0] == pytest.approx(1.0, abs=0.3)


def test_child_knows_its_parent_and_runs_in_its_own_session(tmp_path: Path) -> None:
    body = (
        "import os; open(FOLDER + '/told', 'w').write(' '.join(map(str, [os.environ['FINETUNE_PARENT_PID'], "
        "os.getppid(), os.getsid(0) == os.getpid()])))"
    )
    run_supervised(script(tmp_path, body), env(), None)
    assert (tmp_path / "told").read_text() == f"{os.getpid()} {os.getpid()} True"


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
    started = time.monotonic()
    with pytest.raises(Stopped, match="somebody said so"):
        run_supervised(
            script(tmp_path, body),
            env(),
            None,
            grace=(20.0, 20.0),
            should_stop=lambda: "somebody said so" if (tmp_path / "ready").exists() else None,
        )
    assert (tmp_path / "checkpoint").read_text() == "kept"
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("new_session", [False, True], ids=["in the group", "in a session of its own"])
def test_child_and_grandchild_that_ignore_signals_are_killed(tmp_path: Path, new_session: bool) -> None:
    body = (
        GRANDCHILD + "\n[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]\n"
        "open(FOLDER + '/ready', 'w').write('1'); time.sleep(600)"
    )
    said: list[str] = []
    with pytest.raises(Stopped):
        run_supervised(
            script(tmp_path, body, new_session),
            env(),
            None,
            grace=(1.0, 1.0),
            log=said.append,
            should_stop=lambda: "stop" if (tmp_path / "ready").exists() else None,
        )
    assert not is_running(number_in(tmp_path / "child"))
    assert not is_running(number_in(tmp_path / "grandchild"))
    assert [line.split()[1] for line in said if line.startswith("sending")] == ["SIGINT", "SIGTERM", "SIGKILL"]


@pytest.mark.parametrize("new_session", [False, True], ids=["in the group", "in a session of its own"])
def test_a_grandchild_left_over_by_a_good_end_is_killed(tmp_path: Path, new_session: bool) -> None:
    assert run_supervised(script(tmp_path, GRANDCHILD, new_session), env(), None) == 0
    assert not is_running(number_in(tmp_path / "grandchild"))


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    import subprocess

    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as bystander:
        run_supervised(script(tmp_path, GRANDCHILD), env(), None)
        assert is_running(bystander.pid)
        bystander.kill()


def test_time_limit(tmp_path: Path) -> None:
    body = GRANDCHILD + "\ntime.sleep(600)"
    with pytest.raises(Stopped, match=r"longer than its limit of 1\.5 s"):
        run_supervised(script(tmp_path, body), env(), None, timeout_s=1.5, grace=(0.5, 0.5))
    assert not is_running(number_in(tmp_path / "child"))
    assert not is_running(number_in(tmp_path / "grandchild"))


def test_an_exception_in_a_tick_stops_the_child_and_is_raised(tmp_path: Path) -> None:
    def fail() -> None:
        if (tmp_path / "child").exists():
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        run_supervised(script(tmp_path, GRANDCHILD + "\ntime.sleep(600)"), env(), None, on_tick=fail, grace=(1.0, 1.0))
    assert not is_running(number_in(tmp_path / "child"))
    assert not is_running(number_in(tmp_path / "grandchild"))


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
    started = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_supervised(script(tmp_path, body), env(), None, grace=(60.0, 60.0))
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 20
    assert not is_running(number_in(tmp_path / "child"))


def test_words_for_exit_codes() -> None:
    assert "out-of-memory" in describe(-9)
    assert describe(-15) == "killed by SIGTERM (exit code -15)"
    assert describe(-99) == "killed by signal 99 (exit code -99)"
    assert describe(EXIT_PREEMPTED) == "stopped by a signal, checkpoint kept (exit code 85)"
    assert describe(1) == "failed (exit code 1)"
    assert {EXIT_CONFIG, EXIT_OOM} == NO_RETRY and EXIT_PREEMPTED not in NO_RETRY
