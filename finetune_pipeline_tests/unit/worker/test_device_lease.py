from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.worker.device_lease import lease, lock_folder
from finetune_pipeline_tests.unit.processes import number_in, wait_until

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from finetune_pipeline.worker.device_lease import lease
with lease(["cpu"], lambda device: Path(sys.argv[1]), holder="ticket_triage/adapter") as (device, handle):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=handle)
    (Path(sys.argv[1]) / "child").write_text(str(child.pid))
    time.sleep(600)
"""


def kept(folder: Path) -> Callable[[str], Path]:
    return lambda device: folder


def test_two_leases_get_two_devices_and_a_third_waits(tmp_path: Path) -> None:
    devices = ["cuda:0", "cuda:1"]
    with (
        lease(devices, kept(tmp_path)) as (first, _),
        lease(devices, kept(tmp_path), holder="the second") as (second, _),
    ):
        assert (first, second) == ("cuda:0", "cuda:1")
        said: list[str] = []
        with (
            pytest.raises(TimeoutError, match=r"cuda:1: the second, started by process"),
            lease(devices, kept(tmp_path), timeout_s=0.3, poll_s=0.1, log=said.append),
        ):
            pass
        assert len(said) == 1
        assert "waiting for a free device (cuda:0: a training, started by process" in said[0]
        assert f"cuda:1: the second, started by process {os.getpid()}, for 0 s" in said[0]
    with lease(devices, kept(tmp_path)) as (again, _):
        assert again == "cuda:0"


def test_the_child_keeps_the_lease_of_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    child = number_in(tmp_path / "child")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with (
        pytest.raises(TimeoutError, match="ticket_triage/adapter"),
        lease(["cpu"], kept(tmp_path), timeout_s=0.5, poll_s=0.1),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    started = time.monotonic()
    with lease(["cpu"], kept(tmp_path), timeout_s=20, poll_s=0.1) as (device, _):
        assert device == "cpu"
    assert time.monotonic() - started < 10
    wait_until(lambda: parent.returncode is not None)


def test_several_devices_are_taken_together_or_not_at_all(tmp_path: Path) -> None:
    with lease(["cuda:1"], kept(tmp_path), holder="the other"):
        with (
            pytest.raises(TimeoutError, match=r"\(cuda:1: the other, started by process \d+, for \d+ s\)"),
            lease(["cuda:1+cuda:0"], kept(tmp_path), timeout_s=0.3, poll_s=0.05),
        ):
            pass
        with lease(["cuda:0"], kept(tmp_path), timeout_s=0.0) as (device, _):  # nothing was kept while it waited
            assert device == "cuda:0"
        with lease(["cuda:0+cuda:1", "cuda:2+cuda:3"], kept(tmp_path), timeout_s=0.0) as (device, handles):
            assert device == "cuda:2+cuda:3" and len(handles) == 2
    with lease(["cpu+cpu"], kept(tmp_path), timeout_s=0.0) as (device, handles):
        assert device == "cpu+cpu" and len(handles) == 1


def test_homes_share_gpus_and_not_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def of(home: str) -> Callable[[str], Path]:
        return lambda device: lock_folder(device, tmp_path / home)

    with lease(["cpu", "cuda:0"], of("one")) as (first, _), lease(["cpu", "cuda:0"], of("two")) as (second, _):
        assert first == second == "cpu", "another home's training must not be waited for"
        with lease(["cpu", "cuda:0"], of("one")) as (third, _):
            assert third == "cuda:0", "within one home heavy steps take turns"
            with pytest.raises(TimeoutError, match="cuda:0"), lease(["cuda:0"], of("two"), timeout_s=0.2, poll_s=0.05):
                pass
    assert not str(lock_folder("cuda:0", tmp_path)).startswith(("/tmp/finetune", "/var/tmp")), (
        "a name others can take first"
    )
    files = sorted(tmp_path.rglob("*.lock"))
    assert len(files) == 3 and all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert (tmp_path / "one" / "locks").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["file", "folder", "hard link"])
def test_no_link_is_followed(tmp_path: Path, planted: str) -> None:
    victim, locks = tmp_path / "victim", tmp_path / "locks"
    if planted == "file":
        locks.mkdir(mode=0o700)
        victim.write_text("precious")
        (locks / "cuda_0.lock").symlink_to(victim)
    elif planted == "hard link":
        locks.mkdir(mode=0o700)
        victim.write_text("precious")
        (locks / "cuda_0.lock").hardlink_to(victim)
    else:
        victim.mkdir()
        locks.symlink_to(victim)
    with pytest.raises(OutsideError, match="a link|no lock file"), lease(["cuda:0"], kept(locks), timeout_s=0):
        pass
    assert list(victim.iterdir()) == [] if planted == "folder" else victim.read_text() == "precious"


def test_a_folder_that_everybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(OutsideError, match="chmod o-w"), lease(["cuda:0"], kept(tmp_path), timeout_s=0):
        pass
