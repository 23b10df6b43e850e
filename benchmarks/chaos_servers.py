"""Servers that chaos.py disturbs: `dagster dev`, whose processes are killed, and MLflow behind a faulty proxy."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil

from finetune_pipeline_tests.dagster_dev import ROOT, dagster_dev, reserved_port
from finetune_pipeline_tests.graph.disturbed import check_artifacts, finish
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.unit.processes import wait_until

ENDED = ("SUCCESS", "FAILURE", "CANCELED")
DELAY_SECONDS = 0.2
"""Delay of every piece of an answer in the mode `slow`."""


def kill_dagster(project: Project, rng: random.Random) -> tuple[Project, int, str]:
    """Launch a run in `dagster dev`, kill the code server, then while it trains the daemon, with which `dagster dev` ends."""
    environment = {**project.environment(), "DAGSTER_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
    steps = project.home / "artifacts" / project.folder.name
    with dagster_dev(project.root / "dev.log", environment) as dev:
        run_id = dev.launch(f"{project.folder.name}__all")
        wait_until(lambda: list(steps.glob("splits/*/artifact.json")), 1800)
        time.sleep(rng.uniform(0, 5))
        events = [f"SIGKILL for {_kill(dev.processes('dagster api grpc'))} code servers: run {dev.status(run_id)}"]
        check_artifacts(project)
        wait_until(lambda: list((steps / ".work" / "adapter").glob("*")) or dev.status(run_id) in ENDED, 1800)
        time.sleep(rng.uniform(0, 5))
        events.append(f"run {dev.status(run_id)}; for {_kill(dev.processes('dagster._daemon'))} daemons")
        wait_until(lambda: dev.process.poll() is not None, 300)
    check_artifacts(project)
    return project, finish(project), "; ".join(events)


def _kill(processes: list[psutil.Process]) -> int:
    for process in processes:
        process.kill()
    return len(processes)


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A real `mlflow server` on SQLite; yields its port."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with reserved_port() as port, (folder / "server.log").open("w") as log:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
        command += ["--artifacts-destination", str(folder / "files")]
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            end = time.monotonic() + 300
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert server.poll() is None and time.monotonic() < end, (folder / "server.log").read_text()[-2000:]
                time.sleep(0.5)
            yield port
        finally:
            os.killpg(server.pid, 15)
            server.wait(60)


class Proxy:
    """A TCP proxy for a local port.

    Attributes:
        mode: `open`; `refuse` closes connections; `silent` holds answers back; `slow` delays them.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.mode: Literal["open", "refuse", "silent", "slow"] = "open"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(client)
            if self.mode == "refuse":
                client.close()
            else:
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target_port))
        self._connections.append(server)
        threading.Thread(target=self._copy, args=(client, server, 0.0), daemon=True).start()
        self._copy(server, client, DELAY_SECONDS)

    def _copy(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(1 << 16):
                if self.mode == "refuse":
                    return
                while self.mode == "silent":
                    time.sleep(0.1)
                if self.mode == "slow" and delay:
                    time.sleep(delay)
                target.sendall(data)
