"""``finetune ui``: what a web page from elsewhere may ask its servers, whose port it is, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from finetune_pipeline_tests.dagster_dev import ROOT, free_port

QUERY = {"query": "{ version }"}


class Ui:
    """A running `finetune ui` of an empty project, and requests to its servers."""

    def __init__(self, folder: Path) -> None:
        self.ports = {"dagster": free_port(), "mlflow": free_port()}
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        for name in ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "FINETUNE_HOME", "FINETUNE_DATA"):
            env.pop(name, None)
        options = [part for name, port in self.ports.items() for part in (f"--{name}-port", str(port))]
        self.log = (folder / "ui.log").open("w")
        command = [sys.executable, "-m", "finetune_pipeline.cli.main", "ui", *options]
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=self.log, stderr=self.log)

    def status(self, server: str, path: str, body: Any = None, **headers: str) -> int:
        """The status of an answer; 0: nobody listens."""
        data = None if body is None else json.dumps(body).encode()
        given = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
        request = urllib.request.Request(f"http://127.0.0.1:{self.ports[server]}{path}", data, given)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except (urllib.error.URLError, ConnectionError):
            return 0

    def wait(self) -> None:
        end = time.monotonic() + 300
        while not (self.status("dagster", "/graphql", QUERY) == 200 and self.status("mlflow", "/health") == 200):
            assert self.process.poll() is None and time.monotonic() < end, Path(self.log.name).read_text()[-3000:]
            time.sleep(0.5)


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ui]:
    running = Ui(tmp_path_factory.mktemp("project"))
    running.wait()
    yield running
    with contextlib.suppress(ProcessLookupError):
        running.process.kill()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "ours"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
    ],
)
def test_dagster_answers_its_own_pages_only(ui: Ui, headers: dict[str, str], status: int) -> None:
    given = {k: v.replace("ours", f"http://127.0.0.1:{ui.ports['dagster']}") for k, v in headers.items()}
    assert ui.status("dagster", "/graphql", QUERY, **given) == status
    assert ui.status("dagster", "/graphql?query=%7Bversion%7D", **given) == status


def test_a_link_from_elsewhere_opens_the_page_but_sends_no_query(ui: Ui) -> None:
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert ui.status("dagster", "/runs", **link) == 200
    assert ui.status("dagster", "/graphql?query=%7Bversion%7D", **link) == 403


def test_subscriptions_are_for_its_own_pages(ui: Ui) -> None:
    async def opened(origin: str) -> bool:
        address = f"ws://127.0.0.1:{ui.ports['dagster']}/graphql"
        try:
            async with connect(address, origin=origin, subprotocols=["graphql-ws"], proxy=None) as socket:
                await socket.send(json.dumps({"type": "connection_init"}))
                return json.loads(await socket.recv())["type"] == "connection_ack"
        except InvalidStatus as refused:
            assert refused.response.status_code == 403
            return False

    assert asyncio.run(opened(f"http://127.0.0.1:{ui.ports['dagster']}"))
    assert not asyncio.run(opened("https://evil.example"))


def test_mlflow_refuses_them_too(ui: Ui) -> None:
    search = "/api/2.0/mlflow/experiments/search"
    assert ui.status("mlflow", search, {"max_results": 1}) == 200
    assert ui.status("mlflow", search, {"max_results": 1}, Host="rebound.example") == 403
    assert ui.status("mlflow", search, {"max_results": 1}, Origin="https://evil.example") == 403


def test_it_takes_its_servers_with_it_when_the_terminal_hangs_up(ui: Ui) -> None:
    servers = psutil.Process(ui.process.pid).children(recursive=True)
    assert len(servers) >= 3
    ui.process.send_signal(signal.SIGHUP)
    assert ui.process.wait(timeout=60) == 0
    _, left = psutil.wait_procs(servers, timeout=10)
    assert not left


def test_a_busy_port_is_named_with_what_holds_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        env = {**os.environ, "FINETUNE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "finetune_pipeline.cli.main", "ui", "--dagster-port", str(port)]
        done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1
    assert f"port {port} is in use by process {os.getpid()} (" in done.stderr
    assert "end that, or choose another with --dagster-port" in done.stderr
