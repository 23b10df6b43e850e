"""Training at a server of OpenAI's protocol that others wrote: aimock, from npm, where Node is at hand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from finetune_pipeline.trainers import TrainingOrder, train
from finetune_pipeline_tests.service_server import KEY
from finetune_pipeline_tests.unit.trainers.orders import make_order, make_task, persist

PACKAGE = "@copilotkit/aimock"
VERSION = "1.43.0"
MODEL = "gpt-4.1-mini-2025-04-14"


@pytest.fixture(scope="module")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aimock")
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node is not at hand: install node and npm to ask aimock, too")
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), f"{PACKAGE}@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"{PACKAGE} could not be had: {(done.stderr or done.stdout)[-200:]}")
    (folder / "fixtures").mkdir()
    known = [{"match": {"model": MODEL}, "response": {"content": "billing"}}]  # it lists the models that it plays
    (folder / "fixtures/models.json").write_text(json.dumps({"fixtures": known}))
    return folder


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """The address of an aimock of its own."""
    script = folder / "node_modules" / PACKAGE / "dist/cli.js"
    command = ["node", str(script), "-p", "0", "--fixtures", str(folder / "fixtures"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(m for line in process.stdout if (m := re.search(r"listening on (http://\S+)", line)))
            yield f"{found[1]}/v1"
        finally:
            process.kill()


def order_at(url: str, rows: Path, place: Path) -> TrainingOrder:
    return make_order(make_task("openai", {"model": MODEL, "base_url": url}), rows, place)


def jobs(url: str) -> list[dict[str, str]]:
    """What was ordered there, asked until the server answers."""
    for _ in range(20):
        reply = httpx.get(f"{url}/fine_tuning/jobs", headers={"Authorization": f"Bearer {KEY}"}, trust_env=False)
        if reply.status_code == 200:
            return list(reply.json()["data"])
    raise AssertionError(reply.text)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_a_job_is_ordered_once_followed_and_becomes_an_endpoint(aimock: Path, rows: Path, tmp_path: Path) -> None:
    with serving(aimock) as url:
        order = order_at(url, rows, tmp_path)
        facts = train(order)
        assert facts["returns"] == "endpoint" and str(facts["model"]).startswith(f"ft:{MODEL}")
        assert train(order)["job"] == facts["job"]
        assert [(job["id"], job["status"]) for job in jobs(url)] == [(facts["job"], "succeeded")]


def test_refused_and_broken_requests_buy_no_second_job(aimock: Path, rows: Path, tmp_path: Path) -> None:
    with serving(aimock, "--chaos-drop", "0.15") as url:
        order = order_at(url, rows, tmp_path)
        facts = persist(order)
        assert [job["id"] for job in jobs(url)] == [facts["job"]]
