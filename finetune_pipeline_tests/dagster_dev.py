"""A real `dagster dev`: its processes, and what its UI would ask it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline_tests.unit.processes import wait_until

ROOT = Path(__file__).resolve().parents[1]
"""The project: where dagster.yaml and workspace.yaml are."""
_WHERE = """{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"""
_LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_TERMINATE = """mutation($r: String!, $p: TerminateRunPolicy) { terminateRun(runId: $r, terminatePolicy: $p) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
_STATUS = """query($r: ID!) { runOrError(runId: $r) { ... on Run { status } } }"""


class Dev:
    """A running `dagster dev`: its processes, and what the UI would ask it."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def ask(self, query: str, **variables: Any) -> Any:
        """The data of a GraphQL answer. Raises RuntimeError with its errors."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            result = json.load(answer)
        if result.get("errors"):
            raise RuntimeError(json.dumps(result["errors"])[:2000])
        return result["data"]

    def launch(self, job: str) -> str:
        """Start a job as the UI does. Returns the run id."""
        (found,) = self.ask(_WHERE)["repositoriesOrError"]["nodes"]
        place = {"repositoryLocationName": found["location"]["name"], "repositoryName": found["name"]}
        selector = {**place, "jobName": job}
        answer = self.ask(_LAUNCH, p={"selector": selector, "runConfigData": {}})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(json.dumps(answer)[:2000])
        return str(answer["run"]["runId"])

    def status(self, run_id: str) -> str:
        """Status of a run, as the UI shows it."""
        return str(self.ask(_STATUS, r=run_id)["runOrError"]["status"])

    def terminate(self, run_id: str, *, force: bool = False) -> str:
        """What the button "Terminate" does. Returns the type of the answer: TerminateRunSuccess, or what went wrong."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
        answer = self.ask(_TERMINATE, r=run_id, p=policy)["terminateRun"]
        return str(answer["__typename"] if "message" not in answer else answer["message"])

    def processes(self, words: str) -> list[psutil.Process]:
        """Its processes with these words in their command."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found


@contextlib.contextmanager
def dagster_dev(log_file: Path, environment: Mapping[str, str], *options: str, cwd: Path = ROOT) -> Iterator[Dev]:
    """`dagster dev OPTIONS` (none: this project's workspace.yaml). At the end it gets SIGTERM, and what it leaves SIGKILL,
    but for runs: they have sessions of their own."""
    with reserved_port() as port, log_file.open("ab") as log:
        command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port), *options]
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(environment), stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        dev = Dev(process, port)
        try:
            wait_until(lambda: _answers(dev), 900)
            yield dev
        finally:
            left = psutil.Process(dev.process.pid).children(recursive=True) if dev.process.poll() is None else []
            dev.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                dev.process.wait(60)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """A port that nobody listens on, for a server that cannot choose one itself.

    It stays bound, so that Linux gives it to nobody who asks for any port; a server that names it can still listen on it, for
    both sockets have SO_REUSEADDR.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def _answers(dev: Dev) -> bool:
    assert dev.process.poll() is None, "dagster dev ended"
    try:
        return bool(dev.ask(_WHERE)["repositoriesOrError"].get("nodes"))
    except (OSError, RuntimeError):
        return False
