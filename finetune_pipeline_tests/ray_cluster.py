"""A Ray cluster on this machine, for tests and benchmarks. Anyone who submits a job can run any program, so it requires a token."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from finetune_pipeline.trainers.ray_cluster import connect

RAY = Path(sys.executable).parent / "ray"
_MARKER = "FINETUNE_TEST_CLUSTER"
_READY_SECONDS = 60.0
_STARTS = 3
_PORTS = (
    "port",
    "dashboard-port",
    "dashboard-agent-listen-port",
    "dashboard-agent-grpc-port",
    "runtime-env-agent-port",
    "metrics-export-port",
    "ray-client-server-port",
    "node-manager-port",
    "object-manager-port",
)


@dataclass(frozen=True)
class LocalCluster:
    """Address of the dashboard, folder of Ray's session, and the value of :data:`_MARKER` in its processes' environment."""

    address: str
    folder: Path
    marker: str

    def processes(self) -> list[psutil.Process]:
        """Return the living processes of the cluster."""
        processes = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(_MARKER) == self.marker and process.status() != psutil.STATUS_ZOMBIE:
                    processes.append(process)
        return processes


def require_token() -> None:
    """Give this process's clusters and clients a token. Call it before Ray is imported, which reads it once."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


@contextlib.contextmanager
def local_cluster(cpus: int | None = None, ray: Path = RAY) -> Iterator[LocalCluster]:
    """Start a head node on free ports of 127.0.0.1, and stop it at the end.

    cpus: None: all of this machine. ray: Ray's command; its Python runs the jobs.
    """
    require_token()
    for attempt in range(_STARTS):
        cluster = _start(cpus, ray)
        try:
            problem = _fault_until_ready(cluster)
            if not problem:
                yield cluster
                return
        finally:
            _stop(cluster)
        assert attempt + 1 < _STARTS, f"Ray does not start here: {problem}"


def _start(cpus: int | None, ray: Path) -> LocalCluster:
    # the folder contains sockets, whose paths must be short
    marker, folder, ports = uuid.uuid4().hex, tempfile.mkdtemp(prefix="ray-"), _free_ports(len(_PORTS))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {
        _MARKER: marker,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray use the loopback address only
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # this machine is not preempted
        "PATH": f"{ray.parent}{os.pathsep}{os.environ.get('PATH', '')}",  # jobs call python
    }
    command = [str(ray), "start", "--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += ["--disable-usage-stats", f"--temp-dir={folder}", *([f"--num-cpus={cpus}"] if cpus else [])]
    command += [f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    with (Path(folder) / "start.log").open("wb") as log:
        subprocess.run(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    return LocalCluster(f"http://127.0.0.1:{ports[_PORTS.index('dashboard-port')]}", Path(folder), marker)


def _fault_until_ready(cluster: LocalCluster) -> str:
    """Wait until a cluster accepts jobs. Returns the problem if it does not: on a busy machine, its node may fail to start."""
    limit, problem = time.monotonic() + _READY_SECONDS, ""
    while time.monotonic() < limit:
        try:
            connect(cluster.address).submit_job(entrypoint="true")
            return ""
        except (RuntimeError, OSError) as error:
            problem = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            time.sleep(0.5)
    return problem


def _stop(cluster: LocalCluster) -> None:
    while processes := cluster.processes():  # new ones may appear meanwhile
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=5)
    shutil.rmtree(cluster.folder, ignore_errors=True)


def _free_ports(number: int) -> list[int]:
    """Return distinct ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for free_socket in sockets:
            free_socket.bind(("127.0.0.1", 0))
        return [free_socket.getsockname()[1] for free_socket in sockets]
