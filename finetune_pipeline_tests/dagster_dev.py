"""Starts a real `dagster dev` and sends it the requests of its UI."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import requests

from finetune_pipeline_tests.unit.processes import wait_until

ROOT = Path(__file__).resolve().parents[1]
"""The folder of dagster.yaml and workspace.yaml."""
_REPOSITORIES = """{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"""
_LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_TERMINATE = """mutation($r: String!, $p: TerminateRunPolicy) { terminateRun(runId: $r, terminatePolicy: $p) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
_STATUS = """query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }"""


class Dev:
    """A running `dagster dev`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def ask(self, query: str, **variables: Any) -> Any:
        """Send a GraphQL query. Returns its data; raises RuntimeError with its errors."""
        body = {"query": query, "variables": variables}
        response = requests.post(f"http://127.0.0.1:{self.port}/graphql", json=body, timeout=120)
        response.raise_for_status()
        result = response.json()
        if result.get("errors"):
            raise RuntimeError(json.dumps(result["errors"])[:2000])
        return result["data"]

    def launch(self, job: str) -> str:
        """Start a job as the UI does. Returns the run id."""
        (repository,) = self.ask(_REPOSITORIES)["repositoriesOrError"]["nodes"]
        selector = {"repositoryLocationName": repository["location"]["name"], "repositoryName": repository["name"]}
        params = {"selector": {**selector, "jobName": job}, "runConfigData": {}}
        result = self.ask(_LAUNCH, p=params)["launchRun"]
        if result["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(json.dumps(result)[:2000])
        return str(result["run"]["runId"])

    def status(self, run_id: str) -> str:
        """The run's status."""
        return str(self.ask(_STATUS, r=run_id)["runOrError"]["status"])

    def terminate(self, run_id: str, *, force: bool = False) -> str:
        """Terminate a run as the UI does. Returns TerminateRunSuccess or the error message."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
        result = self.ask(_TERMINATE, r=run_id, p=policy)["terminateRun"]
        return str(result.get("message", result["__typename"]))

    def processes(self, words: str) -> list[psutil.Process]:
        """Child processes with these words in their command line."""
        matching = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    matching.append(process)
        return matching


@contextlib.contextmanager
def dagster_dev(log_file: Path, environment: Mapping[str, str], *options: str, cwd: Path = ROOT) -> Iterator[Dev]:
    """Run `dagster dev OPTIONS` (by default with this project's workspace.yaml). On exit it gets SIGTERM, and child processes
    that remain get SIGKILL."""
    with reserved_port() as port, log_file.open("ab") as log:
        command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port), *options]
        env = dict(environment)
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=log, stderr=log, start_new_session=True)
        dev = Dev(process, port)
        try:
            wait_until(lambda: _is_ready(dev), 900)
            yield dev
        finally:
            children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            for child in children:
                with contextlib.suppress(psutil.Error):
                    child.kill()


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A free port, for servers that cannot choose one themselves.

    It stays bound, so that Linux assigns it to no other process; the server can still listen on it, since both sockets set
    SO_REUSEADDR.
    """
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield int(bound.getsockname()[1])


def _is_ready(dev: Dev) -> bool:
    assert dev.process.poll() is None, "dagster dev ended"
    try:
        return bool(dev.ask(_REPOSITORIES)["repositoriesOrError"].get("nodes"))
    except (OSError, RuntimeError):
        return False
