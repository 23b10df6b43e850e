"""A tracking server behind a door that can be shut: what stands before MLflow in `benchmarks/chaos.py`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline_tests.dagster_dev import reserved_port

LATE_SECONDS = 0.2


@contextlib.contextmanager
def mlflow_server(folder: Path) -> Iterator[int]:
    """A real `mlflow server` on SQLite; yields its port."""
    folder.mkdir(parents=True, exist_ok=True)
    with reserved_port() as port:
        yield from _server(folder, port)


def _server(folder: Path, port: int) -> Iterator[int]:
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("w") as log:
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
    """Passes connections on to `target`. `mode`: open, refuse (cut off), silent (never answered), slow (answers late)."""

    def __init__(self, target: int) -> None:
        self.target, self.mode = target, "open"
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            if self.mode == "refuse":
                client.close()
            else:
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        server = socket.create_connection(("127.0.0.1", self.target))
        self._open.append(server)
        threading.Thread(target=self._copy, args=(client, server, 0.0), daemon=True).start()
        self._copy(server, client, LATE_SECONDS)

    def _copy(self, source: socket.socket, target: socket.socket, late: float) -> None:
        with contextlib.suppress(OSError), source, target:
            while piece := source.recv(1 << 16):
                if self.mode == "refuse":
                    return
                while self.mode == "silent":
                    time.sleep(0.1)
                if self.mode == "slow" and late:
                    time.sleep(late)
                target.sendall(piece)
