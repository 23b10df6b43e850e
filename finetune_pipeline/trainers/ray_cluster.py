"""Connects to Ray clusters, and starts a small local one for trials."""

from __future__ import annotations

import importlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

from finetune_pipeline.engine.files import hold, read_json, replace_text, write_json
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.worker.supervised import MARKER, end_marked

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_RAY = Path(sys.executable).parent / "ray"
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


class _Record(TypedDict):
    address: str
    marker: str
    folder: str


@dataclass(frozen=True)
class Cluster:
    """A cluster's dashboard. token_file: contains its token; None: Ray uses the environment (RAY_AUTH_TOKEN)."""

    address: str
    token_file: Path | None = None

    def client(self) -> JobSubmissionClient:
        """Return a client of its job server. Raises ConnectionError if it does not answer."""
        from ray.job_submission import JobSubmissionClient

        headers = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"} if self.token_file else None
        if not answers(self.address):
            raise ConnectionError(f"nothing answers at {self.address}")
        return JobSubmissionClient(self.address, headers=headers)


def is_platform(address: str) -> bool:
    """Whether Ray passes an address to a platform's own package, named like its scheme (anyscale://PROJECT/CLUSTER)."""
    scheme = urlsplit(address).scheme
    return "://" in address and scheme.isidentifier() and scheme not in ("http", "https", "ray")


def finds_clusters(package: str) -> bool:
    """Whether a platform's package is installed, with the function that Ray calls for a cluster."""
    try:
        return hasattr(importlib.import_module(package), "get_job_submission_client_cluster_info")
    except ImportError:
        return False


def answers(address: str, seconds: float = 5.0) -> bool:
    """Whether an address accepts connections; Ray's own client would wait for minutes.
    True for addresses of platforms, since only the platform's package can reach them."""
    if is_platform(address):
        return True
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), seconds):
            return True
    except (OSError, UnicodeError):  # UnicodeError: a part of the name is empty or too long
        return False


def started_cluster(home: Path) -> Cluster | None:
    """Return the running cluster that :func:`start_cluster` started."""
    try:
        address = read_json(_record(home), _Record)["address"]
    except (FileNotFoundError, ValueError):
        return None
    return Cluster(address, _token(home)) if answers(address) else None


def start_cluster(home: Path, cpus: int | None = None) -> Cluster:
    """Start a head node on free ports of 127.0.0.1, or find the running one. It requires a token that only this user can read,
    since anyone who submits a job can run any program. Raises OutsideError if Ray is missing, or does not start."""
    if not _RAY.exists():
        raise OutsideError("the package ray is not installed", "pip install 'finetune-pipeline[ray]'")
    with hold(_record(home).with_name(".lock")):
        if cluster := started_cluster(home):
            return cluster
        for _ in range(_STARTS):
            stop_cluster(home)
            cluster = _start(home, cpus)
            problem = _fault_until_ready(cluster)
            if not problem:
                return cluster
        stop_cluster(home)
    raise OutsideError(f"Ray does not start here: {problem}", "free memory, or wait until this machine is less busy")


def _start(home: Path, cpus: int | None) -> Cluster:
    """Start the processes of a cluster, and record how to reach and stop them."""
    _record(home).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_text(_token(home), secrets.token_hex(32))
    # it contains sockets, whose paths must be short
    marker, folder = uuid.uuid4().hex, tempfile.mkdtemp(prefix="ray-")
    ports = _free_ports(len(_PORTS))
    address = f"http://127.0.0.1:{ports[_PORTS.index('dashboard-port')]}"
    write_json(_record(home), {"address": address, "marker": marker, "folder": folder})
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    environment |= {
        MARKER: marker,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(home)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # makes Ray use the loopback address only
        "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # this machine is not preempted
        "PATH": f"{_RAY.parent}{os.pathsep}{os.environ.get('PATH', '')}",  # jobs call python
    }
    command = [str(_RAY), "start", "--head", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += ["--disable-usage-stats", f"--temp-dir={folder}", *([f"--num-cpus={cpus}"] if cpus else [])]
    command += [f"--{name}={port}" for name, port in zip(_PORTS, ports, strict=True)]
    with (Path(folder) / "start.log").open("wb") as log:
        subprocess.run(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        )
    return Cluster(address, _token(home))


def _fault_until_ready(cluster: Cluster) -> str:
    """Wait until a cluster accepts jobs. Returns the problem if it does not: on a busy machine, its node may fail to start."""
    limit, problem = time.monotonic() + _READY_SECONDS, ""
    while time.monotonic() < limit:
        try:
            cluster.client().submit_job(entrypoint="true")
            return ""
        except (RuntimeError, OSError) as error:
            problem = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            time.sleep(0.5)
    return problem


def stop_cluster(home: Path) -> bool:
    """Stop every process of the cluster that :func:`start_cluster` started. Returns whether there was one."""
    try:
        record = read_json(_record(home), _Record)
    except (FileNotFoundError, ValueError):
        return False
    end_marked(record["marker"])
    shutil.rmtree(record["folder"], ignore_errors=True)
    for path in (_record(home), _token(home)):
        path.unlink(missing_ok=True)
    return True


def _record(home: Path) -> Path:
    return home / "ray" / "cluster.json"


def _token(home: Path) -> Path:
    return home / "ray" / "token"


def _free_ports(number: int) -> list[int]:
    """Return distinct ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for free_socket in sockets:
            free_socket.bind(("127.0.0.1", 0))
        return [free_socket.getsockname()[1] for free_socket in sockets]
