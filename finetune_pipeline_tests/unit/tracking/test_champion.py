"""Which model serves: from a real registry and store; and ``finetune serve`` as people start it."""

import json
import os
import re
import shutil
import signal
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.cli.judged import find_source
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import Artifact, ArtifactStore, Builder
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.orchestration.release import present_inputs
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.champion import present_champion, second_version
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.model_facts import merged
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.production.releases import released_facts
from finetune_pipeline_tests.unit.tracking.test_registry import PROMPT, register


def model_artifact(store: ArtifactStore, task: str, step: str, base: Path, inputs: dict, settings: Any) -> Artifact:
    def make(builder: Builder) -> None:
        shutil.copytree(base, builder.folder / "model")
        write_json(builder.folder / "model.json", {"path": "model", "base_model": "tiny"})
        builder.facts.update(merged("full"))

    return store.build(task, step, code_version="1", inputs=inputs, settings=settings, make=make)


def release(store: ArtifactStore, tracking: Tracking, base: Path, adapter: str) -> int:
    """What the release stage leaves behind for a fully trained model."""
    origin = model_artifact(store, "shared", "base_model", base, {}, 0)
    merged = model_artifact(store, "colours", "merged_model", base, {"base_model": origin.version}, adapter)
    version = register(
        tracking, base, adapter, name="colours", kind="full", adapter=merged.folder, merged=merged.folder,
        base=origin.folder, merged_version=merged.version, dataset_version="d",
    )  # fmt: skip

    def make(builder: Builder) -> None:
        write_json(builder.folder / "model_version.json", {"system_prompt": PROMPT, "max_new_tokens": 5})
        builder.facts.update(released_facts(version))

    store.build("colours", "model_version", code_version="1", inputs={"adapter": adapter}, settings=0, make=make)
    registry.promote(tracking, "colours", version)
    return version


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    root = tmp_path_factory.mktemp("champion")
    return Project(root, base=make_tiny_model(root / "base"))


def opened(project: Project) -> tuple[Task, ArtifactStore, Tracking]:
    return load_task(project.folder), ArtifactStore(project.home / "artifacts"), project.tracking


def test_the_champion_is_found_and_served_until_another_takes_its_place(project: Project) -> None:
    task, store, tracking = opened(project)
    refused = project.finetune("serve", "colours", "--port", "0")
    assert refused.returncode == 1 and "no champion yet" in refused.stderr
    first = release(store, tracking, project.root / "base", "aaaa")
    champion = present_champion(task, store, tracking)
    assert (champion.name, champion.system_prompt, champion.max_new_tokens) == (f"colours:{first}", PROMPT, 5)
    assert champion.adapter is None

    command, env = (
        project.command("serve", "colours", "--port", "0"),
        {**project.environment(), "PYTHONUNBUFFERED": "1"},
    )
    server = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert address, server.stderr.read()

        def ask() -> dict[str, Any]:
            body = json.dumps({"messages": [{"role": "user", "content": "fire"}]}).encode()
            result = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"{address[0]}/v1/chat/completions", body, result)
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)

        assert ask()["model"] == f"colours:{first}"
        second = release(store, tracking, make_tiny_model(project.root / "other", seed=3), "bbbb")
        assert any(f"serving colours:{second} now" in line for line in server.stderr)
        assert ask()["model"] == f"colours:{second}"
    finally:
        os.kill(server.pid, signal.SIGTERM)
    assert server.wait(60) == 0
    rows = [json.loads(line) for line in (project.folder / "logs" / "served.jsonl").read_text().splitlines()]
    assert [row["model_version"] for row in rows] == [f"colours:{first}", f"colours:{second}"]


def test_another_version_answers_a_share_in_place_of_the_champion(project: Project) -> None:
    for options, why in {
        ("--share", "10", "--shadow", "1"): "two steps",
        ("--candidate", "1"): "give both",
        ("--share", "100"): "0<x<100",
        ("--share", "10"): "is the champion itself",  # the newest is
    }.items():
        refused = project.finetune("serve", "colours", "--port", "0", *options)
        assert refused.returncode != 0 and why in refused.stderr, refused.stderr
    command = project.command("serve", "colours", "--port", "0", "--share", "99.999", "--candidate", "1")
    env = {**project.environment(), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert address, server.stderr.read()
        body = json.dumps({"messages": [{"role": "user", "content": "fire"}], "user": "ann"}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address[0]}/v1/chat/completions", body, headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["model"] == "colours:1"
        server.stdout.readline()
        assert server.stdout.readline() == "colours:1 answers 99.999% of the users or conversations in its place\n"
    finally:
        os.kill(server.pid, signal.SIGTERM)
    assert server.wait(60) == 0


def test_another_version_answers_behind_the_champion(project: Project) -> None:
    task, store, tracking = opened(project)
    refusals = {
        "2": "is the champion itself",
        "7": "no version 7",
        "newest": "no version newest",
        "-1": "no version -1",
    }
    for wanted, why in {**refusals, "candidate": "version 2 of colours is the champion itself"}.items():
        with pytest.raises(OutsideError, match=why):
            second_version(task, store, tracking, wanted)
    assert second_version(task, store, tracking, "1").name == "colours:1"
    (project.folder / "logs" / "served.jsonl").unlink()
    command = project.command("serve", "colours", "--port", "0", "--shadow", "1")
    env = {**project.environment(), "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (project.folder / "logs" / "served.jsonl").read_text().splitlines()]

    try:
        assert server.stdout is not None and server.stderr is not None
        address = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert address, server.stderr.read()
        body = json.dumps({"messages": [{"role": "user", "content": "fire"}]}).encode()
        request = urllib.request.Request(
            f"{address[0]}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            assert json.load(answer)["model"] == "colours:2"
        wait_until(lambda: len(lines()) == 2, 120)
    finally:
        os.kill(server.pid, signal.SIGTERM)
    assert server.wait(60) == 0
    first, second = lines()
    assert (first["model_version"], second["shadow"]["model_version"]) == ("colours:2", "colours:1")
    assert second["shadow"]["champion_output"] == first["output"] != second["shadow"]["output"]
    registry.block_forgotten(tracking, "colours", ["d"])
    with pytest.raises(OutsideError, match="version 1 of colours was trained on rows that have been forgotten"):
        second_version(task, store, tracking, "1")


def test_a_champion_whose_files_are_gone_is_told(project: Project) -> None:
    task, store, tracking = opened(project)
    shutil.move(store.root / "colours" / "merged_model", project.root / "away")
    with pytest.raises(OutsideError, match="model of colours version 2 is missing"):
        present_champion(task, store, tracking)


def test_an_alias_on_a_version_of_somebody_else_is_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    task, store, tracking = opened(project)
    monkeypatch.setenv("FINETUNE_HOME", str(project.home))
    client = tracking.client()
    if registry.champion(tracking, "colours") is None:
        client.create_registered_model("colours")
    version = client.create_model_version("colours", source="file:///somewhere").version
    client.set_registered_model_alias("colours", "champion", version)
    for ask in (
        lambda: present_champion(task, store, tracking),
        lambda: present_inputs(task, store, tracking),
        lambda: find_source(task, store, "champion", "exported"),
    ):
        with pytest.raises(FindingsError, match=rf"version {version} was not registered by a run.*no tag.*merged_ver"):
            ask()
