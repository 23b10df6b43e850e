"""``finetune ui`` of an installed wheel: both servers start and show the finished run, refuse requests of foreign web pages,
name a busy port's owner, and end with the terminal."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from finetune_pipeline.pipeline import CHECKS, STEPS
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests import warm_workers, wheel
from finetune_pipeline_tests.dagster_dev import reserved_port
from finetune_pipeline_tests.graph.project import Finished

VERSION = {"query": "{ version }"}
STRANGERS = (("Host", "rebound.example"), ("Origin", "https://evil.example"))
MATERIALIZED = {step.name for step in STEPS if not step.asked_for}
UNUSED_INPUTS = {
    ("unlabelled_rows", "production_logs"): "the spec names no teacher whose answers are in the logs",
    ("teacher_answers", "unlabelled_rows"): "the spec names no teacher",
    ("raw_examples", "teacher_answers"): "the spec names no teacher",
    ("judge_review", "test_predictions"): "the spec names no judge",
    ("judge_review", "human_review"): "the spec names no judge",
    ("adapter", "refined_adapter"): "the spec asks for no second stage",
    ("general_ability", "base_ability"): "the spec asks for no test of general ability",
    ("test_predictions", "validation_split"): "no production row is kept to judge",
    ("test_predictions", "supervised_adapter"): "the spec asks for no second stage",
    ("test_predictions", "adapter"): "the spec asks for no second stage",
    ("model_version", "few_shot_baseline"): "neither a simple model nor a prompt is shipped",
    ("model_version", "train_split"): "no prompt with retrieved rows is shipped",
}
"""Inputs that the finished run does not open: (step, input), with the reason."""
ORDER_ONLY = {"few_shot_baseline": {"data_quality"}, "adapter": {"advice", "training_plan"}}
"""Edges that only order steps: a failing blocking check of the input stops the step, which reads nothing of the input."""


def send(url: str, body: dict[str, Any] | None = None, **headers: str) -> requests.Response:
    """POST `body` as JSON, or GET without a body. headers: With `_` for `-` in their names."""
    all_headers = {"Content-Type": "application/json", **{name.replace("_", "-"): v for name, v in headers.items()}}
    return requests.request("GET" if body is None else "POST", url, json=body, headers=all_headers, timeout=60)


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    response = send(url, body)
    response.raise_for_status()
    return response.json()


def status_of(url: str, body: dict[str, Any] | None = None, **headers: str) -> int:
    return send(url, body, **headers).status_code


def wait_for(url: str, process: subprocess.Popen[str], body: dict[str, Any] | None = None) -> Any:
    end = time.monotonic() + 180
    while True:
        assert process.poll() is None, "the servers ended"
        try:
            return ask(url, body)
        except requests.RequestException:
            assert time.monotonic() < end, f"{url} did not answer within three minutes"
            time.sleep(1)


@pytest.fixture(scope="module")
def servers(finished: Finished) -> Iterator[dict[str, Any]]:
    root, log = finished.project.root, finished.project.root.parent / "ui.log"
    with log.open("w") as file, reserved_port() as dagster, reserved_port() as mlflow:
        options = ("--dagster-port", str(dagster), "--mlflow-port", str(mlflow))
        command = wheel.command(root.parent / "wheel/environment", "ui", *options)
        process = subprocess.Popen(command, cwd=root, env=wheel.ENVIRONMENT, text=True, stdout=file, stderr=file)
        servers = {"dagster": f"http://127.0.0.1:{dagster}", "mlflow": f"http://127.0.0.1:{mlflow}", "process": process}
        servers["log"] = log
        try:
            wait_for(f"{servers['dagster']}/graphql", process, VERSION)
            wait_for(f"{servers['mlflow']}/api/2.0/mlflow/experiments/search", process, {"max_results": 1})
            yield servers
        finally:
            if process.poll() is None:  # the test that ends it failed or was not selected
                process.terminate()
                process.wait(timeout=60)


def graphql(servers: dict[str, Any], query: str) -> Any:
    return wait_for(f"{servers['dagster']}/graphql", servers["process"], {"query": query})["data"]


@pytest.fixture(scope="module")
def nodes(servers: dict[str, Any]) -> dict[str, Any]:
    """The running code location's asset nodes, by name."""
    query = """{ assetNodes { dependencyKeys { path } assetKey { path } groupName description owners { __typename }
                 assetMaterializations(limit: 1) { runId } hasMaterializePermission
                 assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }"""
    end = time.monotonic() + 120
    while not (result := graphql(servers, query)["assetNodes"]) and time.monotonic() < end:
        time.sleep(1)  # the code location is still loading
    return {node["assetKey"]["path"][-1]: node for node in result}


def test_the_terminal_shows_addresses_and_no_warnings(servers: dict[str, Any], nodes: dict[str, Any]) -> None:
    text = servers["log"].read_text()
    assert f"MLflow:  {servers['mlflow']}" in text and "Warning" not in text and "WARNING" not in text, text


def test_dagster_shows_every_asset_with_its_materialization_and_its_checks(
    nodes: dict[str, Any], finished: Finished
) -> None:
    assert set(nodes) == {step.name for step in STEPS}
    assert all(node["description"] and node["owners"] for node in nodes.values())
    assert {name for name, node in nodes.items() if node["assetMaterializations"]} == MATERIALIZED
    checks = {
        (name, c["name"]): c["executionForLatestMaterialization"]
        for name, node in nodes.items()
        for c in node["assetChecksOrError"].get("checks", [])
    }
    task = load_task(finished.project.folder).spec
    assert set(checks) == {(step, c.name) for step, c in CHECKS if c.asked(task)}
    assert ("evaluation_report", "judge") not in checks, "the task asks for no judge"
    assert all(execution for (step, _), execution in checks.items() if step in MATERIALIZED)


def test_dagster_shows_what_every_step_reads(finished: Finished, nodes: dict[str, Any]) -> None:
    """The lineage in Dagster equals the inputs that each step of the run opened."""
    for step in (s for s in STEPS if not s.asked_for):
        needs = [key["path"][-1] for key in nodes[step.name]["dependencyKeys"]]
        if step.view_of:
            assert needs == [step.view_of]
            continue
        (manifest,) = (finished.project.home / "artifacts").glob(f"*/{step.name}/*/artifact.json")
        if "not_made" in json.loads(manifest.read_text())["facts"]:
            continue
        shown, opened = set(needs) - set(step.follows), set(json.loads(manifest.read_text())["opened"])
        assert set(step.follows) <= set(needs)
        assert opened <= shown, f"{step.name}: an opened input is missing in the lineage"
        unread = {name for name in shown - opened if (step.name, name) not in UNUSED_INPUTS}
        assert unread <= set(step.after), f"{step.name}: an input that decides the version was not opened"
        assert unread == ORDER_ONLY.get(step.name, set()), step.name


def test_jobs_schedule_and_sensors_are_there_and_stopped(servers: dict[str, Any]) -> None:
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        jobs { name } schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } }"""
    (repository,) = graphql(servers, query)["repositoriesOrError"]["nodes"]
    stages = ("all", "data", "baseline", "training", "evaluation", "release", "production")
    assert {f"colours__{s}" for s in stages} <= {j["name"] for j in repository["jobs"]}
    states = {s["name"]: s["sensorState"]["status"] for s in repository["sensors"]}
    states |= {s["name"]: s["scheduleState"]["status"] for s in repository["schedules"]}
    assert states["colours__retraining"] == states["colours__new_logs"] == "STOPPED"
    assert {v for k, v in states.items() if k.startswith("mlflow_closes_")} == {"RUNNING"}


def test_the_run_of_the_command_line_is_one_of_the_code_location(servers: dict[str, Any], finished: Finished) -> None:
    """Dagster's timeline omits runs without an origin."""
    query = "{ runsOrError { ... on Runs { results { runId repositoryOrigin { repositoryLocationName repositoryName } } } } }"
    (run,) = graphql(servers, query)["runsOrError"]["results"]
    origin = {"repositoryLocationName": "finetune_pipeline", "repositoryName": "__repository__"}
    assert run == {"runId": finished.output["run_id"], "repositoryOrigin": origin}


def test_mlflow_shows_the_run_and_the_registered_model(servers: dict[str, Any]) -> None:
    url = f"{servers['mlflow']}/api/2.0/mlflow"
    result = wait_for(f"{url}/registered-models/get?name=colours", servers["process"])
    assert result["registered_model"]["name"] == "colours"
    experiments = ask(f"{url}/experiments/search", {"max_results": 10})["experiments"]
    (experiment,) = [e for e in experiments if e["name"] == "finetune"]
    runs = ask(f"{url}/runs/search", {"experiment_ids": [experiment["experiment_id"]], "max_results": 100})["runs"]
    assert len(runs) == len(MATERIALIZED) + 1


def test_dagster_answers_its_own_pages_only(servers: dict[str, Any]) -> None:
    url, query = servers["dagster"], "graphql?query=%7Bversion%7D"
    assert [status_of(f"{url}/graphql", VERSION, **headers) for headers in ({}, {"Origin": url})] == [200, 200]
    for name, value in (*STRANGERS, ("Origin", "null"), ("Sec_Fetch_Site", "cross-site")):
        statuses = status_of(f"{url}/graphql", VERSION, **{name: value}), status_of(f"{url}/{query}", **{name: value})
        assert statuses == (403, 403), (name, value)
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    for page in ("", "runs", "assets/colours/adapter", "locations/finetune_pipeline/jobs/colours__all/"):
        assert status_of(f"{url}/{page}", **link) == 200, "a foreign link must open the page"
        assert status_of(f"{url}/{page}", **{**link, "Sec_Fetch_Dest": "iframe"}) == 403
    for path in (query, f"/{query}", query.replace("graphql", "GRAPHQL"), f"runs/../{query}", "download_debug/x"):
        assert status_of(f"{url}/{path}", **link) == 403, "a foreign link must not send a query"


def test_no_page_can_be_framed(servers: dict[str, Any]) -> None:
    for name in ("dagster", "mlflow"):
        assert requests.get(servers[name], timeout=60).headers["X-Frame-Options"] == "SAMEORIGIN", name
    policies = requests.get(f"{servers['dagster']}/runs", timeout=60).headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policies and "script-src" in policies


def test_subscriptions_are_for_its_own_pages(servers: dict[str, Any]) -> None:
    async def is_accepted(origin: str) -> bool:
        address = f"{servers['dagster'].replace('http', 'ws')}/graphql"
        try:
            async with connect(address, origin=origin, subprotocols=["graphql-ws"], proxy=None) as socket:
                await socket.send(json.dumps({"type": "connection_init"}))
                return json.loads(await socket.recv())["type"] == "connection_ack"
        except InvalidStatus as refused:
            assert refused.response.status_code == 403
            return False

    assert asyncio.run(is_accepted(servers["dagster"]))
    assert not asyncio.run(is_accepted("https://evil.example"))


def test_mlflow_refuses_them_too(servers: dict[str, Any]) -> None:
    search = f"{servers['mlflow']}/api/2.0/mlflow/experiments/search"
    assert status_of(search, {"max_results": 1}) == 200
    assert [status_of(search, {"max_results": 1}, **{name: value}) for name, value in STRANGERS] == [403, 403]


def test_it_takes_its_servers_with_it_when_the_terminal_hangs_up(servers: dict[str, Any]) -> None:
    process = servers["process"]
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


def test_a_busy_port_is_named_with_what_holds_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        env = {**os.environ, **warm_workers.start(), "FINETUNE_HOME": str(tmp_path)}
        command = [*warm_workers.COMMAND, "ui", "--dagster-port", str(port)]
        ui = subprocess.run(command, env=env, text=True, capture_output=True, timeout=120, check=False)
    assert ui.returncode == 1
    assert f"port {port} is in use by process {os.getpid()} (" in ui.stderr
    assert "end that, or choose another with --dagster-port" in ui.stderr
