from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finetune_pipeline.worker.device_lease import lease
from finetune_pipeline_tests.unit.processes import number_in, wait_until

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from finetune_pipeline.worker.device_lease import lease
with lease(["cpu"], Path(sys.argv[1]), holder="ticket_triage/adapter") as (device, handle):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=handle)
    (Path(sys.argv[1]) / "child").write_text(str(child.pid))
    time.sleep(600)
"""


def test_two_leases_get_two_devices_and_a_third_waits(tmp_path: Path) -> None:
    devices = ["cuda:0", "cuda:1"]
    with lease(devices, tmp_path) as (first, _), lease(devices, tmp_path, holder="the second") as (second, _):
        assert (first, second) == ("cuda:0", "cuda:1")
        said: list[str] = []
        with (
            pytest.raises(TimeoutError, match=r"cuda:1: the second, started by process"),
            lease(devices, tmp_path, timeout_s=0.3, poll_s=0.1, log=said.append),
        ):
            pass
        assert len(said) == 1
        assert "waiting for a free device (cuda:0: a training, started by process" in said[0]
        assert f"cuda:1: the second, started by process {os.getpid()}, for 0 s" in said[0]
    with lease(devices, tmp_path) as (again, _):
        assert again == "cuda:0"


def test_the_child_keeps_the_lease_of_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    child = number_in(tmp_path / "child")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with (
        pytest.raises(TimeoutError, match="ticket_triage/adapter"),
        lease(["cpu"], tmp_path, timeout_s=0.5, poll_s=0.1),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    started = time.monotonic()
    with lease(["cpu"], tmp_path, timeout_s=20, poll_s=0.1) as (device, _):
        assert device == "cpu"
    assert time.monotonic() - started < 10
    wait_until(lambda: parent.returncode is not None)


def test_several_devices_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    with lease(["cuda:1"], tmp_path, holder="the other"):
        with (
            pytest.raises(TimeoutError, match=r"\(cuda:1: the other, started by process \d+, for \d+ s\)"),
            lease(["cuda:1+cuda:0"], tmp_path, timeout_s=0.3, poll_s=0.05),
        ):
            pass
        with lease(["cuda:0"], tmp_path, timeout_s=0.0) as (device, _):  # nothing was kept while it waited
            assert device == "cuda:0"
        with lease(["cuda:0+cuda:1", "cuda:2+cuda:3"], tmp_path, timeout_s=0.0) as (device, handles):
            assert device == "cuda:2+cuda:3" and len(handles) == 2
    with lease(["cpu+cpu"], tmp_path, timeout_s=0.0) as (device, handles):
        assert device == "cpu+cpu" and len(handles) == 1


def test_two_that_want_the_same_devices_in_another_order_both_get_them(tmp_path: Path) -> None:
    import threading

    done: list[str] = []

    def take(device: str) -> None:
        for _ in range(5):
            with lease([device], tmp_path, timeout_s=60, poll_s=0.01):
                done.append(device)

    threads = [threading.Thread(target=take, args=(name,)) for name in ("cuda:0+cuda:1", "cuda:1+cuda:0")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert len(done) == 10
