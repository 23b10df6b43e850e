"""Leases of devices: each is held by one at a time, whoever holds one is named, and no lock is made through a link."""

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.worker.device_lease import lease, lock_folder
from finetune_pipeline.worker.supervised import Stopped
from finetune_pipeline_tests.unit.processes import number_in

HOLDER = """
import subprocess, sys, time
from pathlib import Path
from finetune_pipeline.worker.device_lease import lease
with lease(["cpu"], lambda device: Path(sys.argv[1]), holder="ticket_triage/adapter") as (_, handle):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], pass_fds=[handle])
    (Path(sys.argv[1]) / "child").write_text(str(child.pid))
    time.sleep(600)
"""


FULL = """
import resource, sys
from pathlib import Path
from finetune_pipeline.worker.device_lease import lease
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
try:
    with lease(["cpu"], lambda device: Path(sys.argv[1])):
        pass
except OSError:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with lease(["cpu"], lambda device: Path(sys.argv[1]), should_stop=lambda: "held") as (device, _):
        print(device)
"""


def after(seconds: float) -> Callable[[], str | None]:
    limit = time.monotonic() + seconds
    return lambda: "enough waited" if time.monotonic() >= limit else None


def taken(folder: Path, *devices: str, seconds: float = 0.0, **more: Any) -> AbstractContextManager[tuple[str, int]]:
    return lease(list(devices), lambda device: folder, poll_s=0.05, should_stop=after(seconds), **more)


def refused(folder: Path, devices: str, message: str) -> None:
    messages: list[str] = []
    with pytest.raises(Stopped), taken(folder, *devices.split(), seconds=0.2, log=messages.append):
        pass
    assert len(messages) == 1 and re.search(message, messages[0])


def test_two_leases_get_two_devices_and_a_third_waits(tmp_path: Path) -> None:
    devices = ("cuda:0", "cuda:1")
    with taken(tmp_path, *devices) as (first, _), taken(tmp_path, *devices, holder="the second") as (second, _):
        assert (first, second) == devices
        holders = r"waiting for a free device \(cuda:0: a training, started by process \d+, for 0 s; "
        refused(tmp_path, "cuda:0 cuda:1", f"{holders}cuda:1: the second, started by process {os.getpid()}, for 0 s")
    with taken(tmp_path, *devices) as (third, _):
        assert third == "cuda:0"


def test_the_child_keeps_the_lease_of_a_killed_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    child = number_in(tmp_path / "child")
    parent.kill()
    parent.wait()
    refused(tmp_path, "cpu", "ticket_triage/adapter")
    os.kill(child, signal.SIGKILL)
    with taken(tmp_path, "cpu", seconds=20) as (device, _):
        assert device == "cpu"


def test_a_full_disk_holds_back_no_later_try_of_the_same_process(tmp_path: Path) -> None:
    completed = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert completed.stdout == "cpu\n", completed.stderr


def test_homes_share_gpus_and_not_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    def of(home: str) -> Callable[[str], Path]:
        return lambda device: lock_folder(device, tmp_path / home)

    devices = ["cpu", "cuda:0"]
    with lease(devices, of("one")) as (first, _), lease(devices, of("two")) as (second, _):
        assert first == second == "cpu", "another home's training must not be waited for"
        with lease(devices, of("one")) as (third, _):
            assert third == "cuda:0", "within one home heavy steps take turns"
            with pytest.raises(Stopped), lease(["cuda:0"], of("two"), should_stop=after(0.2), poll_s=0.05):
                pass
    place = str(lock_folder("cuda:0", tmp_path))
    assert not place.startswith(("/tmp/finetune", "/var/tmp")), "a name others can take first"
    files = sorted(tmp_path.rglob("*.lock"))
    assert len(files) == 3 and all(f.stat().st_mode & 0o777 == 0o600 for f in files)
    assert (tmp_path / "one" / "locks").stat().st_mode & 0o777 == 0o700


def test_no_link_is_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "cuda_0.lock").symlink_to(victim)
    with pytest.raises(OSError, match=os.strerror(errno.ELOOP)), taken(tmp_path, "cuda:0"):
        pass
    assert victim.read_text() == "precious"
