"""``finetune ui`` of an installed wheel, in the folder of a project: both web servers come up on this machine only, with the
history of the run in them."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from finetune_pipeline.pipeline import CHECKS, STEPS
from finetune_pipeline_tests import wheel
from finetune_pipeline_tests.graph.project import Project

MADE = {step.name for step in STEPS if not step.asked_for}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(url: str, process: subprocess.Popen[str], body: dict[str, Any] | None = None) -> Any:
    end = time.monotonic() + 180
    while True:
        assert process.poll() is None, "the servers ended"
        try:
            return ask(url, body)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < end, f"{url} did not answer within three minutes"
            time.sleep(1)


@pytest.fixture(scope="module")
def servers(finished: tuple[Project, int, dict]) -> Iterator[dict[str, Any]]:
    root = finished[0].root
    ports = {"dagster": free_port(), "mlflow": free_port()}
    options = [part for name, port in ports.items() for part in (f"--{name}-port", str(port))]
    process = subprocess.Popen(
        wheel.command(root.parent / "wheel/environment", "ui", *options),
        cwd=root,
        env=wheel.ENVIRONMENT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield {name: f"http://127.0.0.1:{port}" for name, port in ports.items()} | {"process": process}
    finally:
        below = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(timeout=60) == 0
        assert not psutil.wait_procs(below, timeout=10)[1], "SIGTERM leaves servers behind"


def test_dagster_shows_every_asset_with_its_materialization_and_its_checks(servers: dict[str, Any]) -> None:
    query = """{ assetNodes { assetKey { path } groupName description owners { __typename }
                 assetMaterializations(limit: 1) { runId } hasMaterializePermission
                 assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } } }"""
    told = wait_for(f"{servers['dagster']}/graphql", servers["process"], {"query": query})
    end = time.monotonic() + 120
    while not told["data"]["assetNodes"] and time.monotonic() < end:  # the code location is still loading
        time.sleep(1)
        told = ask(f"{servers['dagster']}/graphql", {"query": query})
    nodes = {node["assetKey"]["path"][-1]: node for node in told["data"]["assetNodes"]}
    assert set(nodes) == {step.name for step in STEPS}
    assert all(node["description"] and node["owners"] for node in nodes.values())
    assert {name for name, node in nodes.items() if node["assetMaterializations"]} == MADE
    checks = {
        (name, c["name"]): c["executionForLatestMaterialization"]
        for name, node in nodes.items()
        for c in node["assetChecksOrError"].get("checks", [])
    }
    assert set(checks) == {(step, c.name) for step, c in CHECKS}
    assert all(execution for (step, _), execution in checks.items() if step in MADE)


def test_jobs_schedule_and_sensors_are_there_and_stopped(servers: dict[str, Any]) -> None:
    query = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
        jobs { name } schedules { name scheduleState { status } } sensors { name sensorState { status } } } } } }"""
    (repository,) = wait_for(f"{servers['dagster']}/graphql", servers["process"], {"query": query})["data"][
        "repositoriesOrError"
    ]["nodes"]
    stages = ("all", "data", "baseline", "training", "evaluation", "release", "production")
    assert {f"colours__{s}" for s in stages} <= {j["name"] for j in repository["jobs"]}
    assert {s["name"]: s["scheduleState"]["status"] for s in repository["schedules"]} == {
        "colours__retraining": "STOPPED"
    }
    states = {s["name"]: s["sensorState"]["status"] for s in repository["sensors"]}
    assert states["colours__new_logs"] == "STOPPED"
    assert {v for k, v in states.items() if k.startswith("mlflow_closes_")} == {"RUNNING"}


def test_the_run_of_the_command_line_is_one_of_the_code_location(
    servers: dict[str, Any], finished: tuple[Project, int, dict]
) -> None:
    """Dagster's timeline leaves out runs without an origin."""
    query = "{ runsOrError { ... on Runs { results { runId repositoryOrigin { repositoryLocationName repositoryName } } } } }"
    (run,) = wait_for(f"{servers['dagster']}/graphql", servers["process"], {"query": query})["data"]["runsOrError"][
        "results"
    ]
    origin = {"repositoryLocationName": "finetune_pipeline", "repositoryName": "__repository__"}
    assert run == {"runId": finished[2]["run_id"], "repositoryOrigin": origin}


def test_mlflow_shows_the_run_and_the_registered_model(servers: dict[str, Any]) -> None:
    url = f"{servers['mlflow']}/api/2.0/mlflow"
    told = wait_for(f"{url}/registered-models/get?name=colours", servers["process"])
    assert told["registered_model"]["name"] == "colours"
    experiments = ask(f"{url}/experiments/search", {"max_results": 10})["experiments"]
    (experiment,) = [e for e in experiments if e["name"] == "finetune"]
    runs = ask(f"{url}/runs/search", {"experiment_ids": [experiment["experiment_id"]], "max_results": 100})["runs"]
    assert len(runs) == len(MADE) + 1
