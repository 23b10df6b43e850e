"""Training at Together: the SDK against a server on this machine."""

import json
import math
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from finetune_pipeline.engine.files import hold
from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.hosted import HostedModel, read_hosted
from finetune_pipeline.models.merging import merge
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.trainers import TRAINERS, TrainingOrder, train
from finetune_pipeline.trainers.together import _start
from finetune_pipeline_tests.service_server import Reply, Request, refusal
from finetune_pipeline_tests.together_server import TogetherServer, adapter_archive
from finetune_pipeline_tests.unit.processes import wait_until
from finetune_pipeline_tests.unit.trainers.orders import (
    QUICK,
    interrupt,
    make_order,
    make_rows,
    make_task,
    tiny_adapter,
)


@pytest.fixture
def server(keys: None) -> Iterator[TogetherServer]:
    with TogetherServer(tiny_adapter()) as server:
        yield server


@pytest.fixture
def ordered(server: TogetherServer, rows: Path, tmp_path: Path) -> Callable[..., TrainingOrder]:
    """As the fixture of the same name for OpenAI's protocol."""

    def ordered(section: dict[str, Any] | None = None, **training: Any) -> TrainingOrder:
        return make_order(
            make_task("together", {"base_url": server.address, **(section or {})}, **training), rows, tmp_path
        )

    return ordered


def test_the_adapter_comes_home_and_merges(server, ordered, rows, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("FINETUNE_PROGRESS", str(tmp_path / "progress"))
    order = ordered({"base_url": f"{server.address}/v1"}, budget_usd=1.0)
    facts = train(order)
    (request,) = server.asked("POST", "/fine-tunes")
    body = request.json()
    assert (body["n_epochs"], body["n_evals"], body["training_type"]["lora_r"]) == (2, 4, 4)
    assert body["training_method"] == {"method": "sft", "train_on_inputs": False} and body["learning_rate"] == 5e-4
    assert (facts.returns, facts.kept_step, facts.best_eval_loss) == ("weights", 2, 1.1)
    assert merge(rows / "base", tmp_path / "out/adapter", tmp_path / "merged").merged_tensors == 2
    measured = json.loads((tmp_path / "out/measured.json").read_text())
    assert measured["dollars"] == pytest.approx(measured["estimated_dollars"], rel=1e-3) and measured["dollars"] > 0
    progress = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    assert any(line.get("eval_loss") == 1.1 for line in progress)
    train(order)
    assert len(server.jobs) == 1 and not list(tmp_path.rglob("escaped.txt"))


def test_a_zstandard_archive_is_read_and_a_broken_one_is_told(server, order, tmp_path) -> None:
    plain, packed = adapter_archive(tiny_adapter(0.25)), pyarrow.BufferOutputStream()
    with pyarrow.output_stream(packed, compression="zstd") as out:
        out.write(plain)
    server.archive = b"<html>sorry</html>"
    with pytest.raises(JobError, match="not an archive"):
        train(order)
    (tmp_path / "full" / "adapter_model.safetensors").mkdir(parents=True)  # cannot be written, as on a full disk
    server.archive = plain
    with pytest.raises(IsADirectoryError):
        TRAINERS["together"].connect(order.spec).download(next(iter(server.jobs)), tmp_path / "full")
    server.archive = packed.getvalue().to_pybytes()
    train(order)
    adapter = tmp_path / "out/adapter/adapter_model.safetensors"
    assert adapter.read_bytes() == tiny_adapter(0.25)["adapter_model.safetensors"] and len(server.jobs) == 1
    server.archive = adapter_archive({**tiny_adapter(), "adapter_model.safetensors": b"\xff" * 40})
    with pytest.raises(JobError, match="not an adapter"):
        train(order)


@pytest.mark.parametrize(("state", "message"), [("error", "the GPUs fell"), ("user_error", "user_error")])
def test_a_job_that_did_not_succeed_is_told(server, order, state, message) -> None:
    server.states = ("pending", "defrosting", state)
    with pytest.raises(JobError, match=message):
        train(order)


def test_cancelling_says_the_dollars(order: TrainingOrder) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(replace(order, tick=interrupt))
    assert "it cost $1.50 so far" in stopped.value.__notes__[0]


def test_one_spec_trains_at_each_service_by_its_trainer_alone(server, nebius, rows, tmp_path) -> None:
    sections = {"openai": {**QUICK, "profile": "nebius", "base_url": nebius.url}}
    facts = {}
    for trainer in ("together", "openai"):
        spec = make_task("together", {"base_url": server.address}, **sections)
        spec = spec.model_copy(update={"training": spec.training.model_copy(update={"trainer": trainer})})
        facts[trainer] = train(make_order(spec, rows, tmp_path / trainer))
    assert facts["together"].trained == facts["openai"].trained
    uploaded = [file["data"] for file in server.files.values()]
    assert uploaded == [data for name, data in nebius.files.values() if name.endswith("_upload.jsonl")]
    assert facts["together"].service.startswith("Together") and facts["openai"].service.startswith("Nebius")


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "not tunable": ({"model": "org/other"}, {}, "hosted.not_tunable", "list of fine-tuning models"),
    "rank over the cap": ({}, {"lora": {"r": 128}}, "hosted.rank", "write 64 or less"),
    "rate outside the limits": ({}, {"learning_rate": 0.1}, "hosted.learning_rate", "write 0.001 or less"),
    "too small a batch": ({}, {"batch_size": 4, "micro_batch_size": 4}, "hosted.limit", "write 8 or more"),
    "a long row": ({}, {}, "hosted.file_row", "shorten or remove this row"),
    "over the budget by the list": ({}, {"budget_usd": 1e-9}, "hosted.budget", "raise training.budget_usd"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_refused_before_any_upload(server, ordered, tmp_path, name) -> None:
    section, training, rule, fix = REFUSALS[name]
    order = ordered(section, **training)
    if name == "a long row":
        order = make_order(order.spec, make_rows(tmp_path / "rows", long=5), tmp_path)
    if "list" in name:
        order.home.mkdir()
        price = "{engine: Together, model: org/tiny, unit: million_tokens, price: 0.48, date: 2026-11-01, note: a test}"
        (order.home / "prices.yaml").write_text(f"- {price}\n")
    with pytest.raises(FindingsError) as refused:
        train(order)
    (finding,) = refused.value.findings
    assert finding.rule == rule and fix in finding.fix
    assert name != "a long row" or finding.place == "train file, line 5 (from t.jsonl:5)"
    assert not [r for r in server.requests if r.method in ("POST", "PUT")]


@pytest.mark.parametrize(("estimates", "budget", "rule"), [(True, 1e-6, "budget"), (False, 1.0, "price_unknown")])
def test_the_services_own_estimate_is_held_against_the_budget_before_buying(
    server: TogetherServer, ordered: Callable[..., TrainingOrder], estimates: bool, budget: float, rule: str
) -> None:
    server.estimates = estimates
    with pytest.raises(FindingsError) as refused:
        train(ordered(budget_usd=budget))
    assert [f.rule for f in refused.value.findings] == [f"hosted.{rule}"] and not server.asked("POST", "/fine-tunes")


@pytest.mark.parametrize(
    ("rate", "budget", "rule"), [(None, 50.0, "price_unknown"), (10.0, 4.99, "budget"), (10.0, 5.1, "")]
)
def test_an_endpoint_counts_in_the_budget(server, ordered, rate: float | None, budget: float, rule: str) -> None:
    """Thirty minutes of it, at the price that the task states."""
    section = {"returns": "endpoint", "project": "p1", "hardware_config": "projects/p1/configs/c1"}
    order = ordered({**section, "endpoint_usd_per_hour": rate}, budget_usd=budget)
    if not rule:
        train(order)
        return
    with pytest.raises(FindingsError) as refused:
        train(order)
    assert {f.rule for f in refused.value.findings} == {f"hosted.{rule}"} and not server.asked("POST", "/fine-tunes")


ODDITIES: dict[str, dict[str, Any]] = {
    "/v1/fine-tunes": {"data": None},
    "/events": {"data": None},
    "/checkpoints": {"data": None},
    "/metrics": {"metrics": [{"step": "last", "train_loss": "low"}, {"step": None, "eval_loss": 1}]},
}
"""Parts of answers to GET, by the path's ending: empty lists as some servers write them, and values of another type."""


def test_odd_lists_and_figures_cost_no_result(server: TogetherServer, ordered: Callable[..., TrainingOrder]) -> None:
    server.answer = odd(server, ODDITIES)  # type: ignore[method-assign]
    assert train(ordered()).history == []
    server.answer = odd(server, {"/limits": {"min_learning_rate": None}})  # type: ignore[method-assign]
    with pytest.raises(OutsideError, match="gave no clear answer"):
        train(ordered(epochs=3))
    server.answer = odd(server, {"/estimate-price": {"estimated_total_price": math.nan}})  # type: ignore[method-assign]
    with pytest.raises(FindingsError, match="names no price"):
        train(ordered(epochs=4, budget_usd=1))
    assert len(server.jobs) == 1


def odd(server: TogetherServer, changes: dict[str, dict[str, Any]]) -> Callable[[Request], Reply | None]:
    """The server's answers with other values of some keys."""

    def answer(request: Request) -> Reply | None:
        reply = TogetherServer.answer(server, request)
        for ending, values in changes.items():
            if request.path.endswith(ending) and not (request.method == "POST" and ending == "/v1/fine-tunes"):
                reply = replace(reply, content={**reply.content, **values})
        return reply

    return answer


def test_a_file_that_was_deleted_there_is_uploaded_again(server: TogetherServer, ordered) -> None:
    with pytest.raises(FindingsError):
        train(ordered(budget_usd=1e-6))
    deleted, usual = set(server.files), server.answer
    server.files.clear()
    server.answer = lambda request: (  # type: ignore[method-assign]
        refusal(404, "file not found")
        if request.path.endswith("/estimate-price") and request.json()["training_file"] not in server.files
        else usual(request)
    )
    with pytest.raises(JobError, match="file not found"):
        train(ordered(budget_usd=1))
    train(ordered(budget_usd=1))
    assert deleted and len(server.jobs) == 1


@pytest.fixture
def trained(ordered: Callable[..., TrainingOrder]) -> TrainingOrder:
    """An order whose model is to be served at an endpoint, and which was trained."""
    order = ordered({"returns": "endpoint", "project": "p1", "hardware_config": "projects/p1/configs/c1"})
    train(order)
    return order


def serving_of(order: TrainingOrder) -> AbstractContextManager[HostedModel]:
    """The context in which the order's model is served."""
    hosted = read_hosted(order.out)
    assert hosted
    return TRAINERS["together"].serving(order.spec, hosted, order.home)


def test_an_endpoint_runs_while_it_is_asked_and_is_stopped_whatever_happens(server, trained: TrainingOrder) -> None:
    facts = json.loads((trained.out / "result.json").read_text())
    assert facts["returns"] == "endpoint" and not server.endpoints
    with pytest.raises(ZeroDivisionError), serving_of(trained) as running:
        assert running.base_url == f"{server.address}/v1"
        (endpoint,) = server.endpoints.values()
        assert running.model == endpoint["name"] == f"acme/finetune-{facts['job']}"
        assert endpoint["split"] == [{"deploymentId": "dp_1", "weight": 1.0}]
        faults = ["refuse"]
        server.fault = lambda request: faults.pop() if faults and request.method == "DELETE" else None
        raise ZeroDivisionError
    assert not server.endpoints and not list((trained.home / "jobs/endpoints").iterdir())


@pytest.mark.parametrize("killed", [False, True])
def test_who_waited_for_an_endpoint_is_on_record_too(server, trained: TrainingOrder, killed: bool) -> None:
    recorded: list[tuple[int, int]] = []

    def second() -> None:
        with serving_of(trained):
            recorded.append((len(list((trained.home / "jobs/endpoints").iterdir())), len(server.endpoints)))

    waiting = threading.Thread(target=second)
    record = trained.home / "jobs/endpoints" / f"finetune-{next(iter(server.jobs))}"
    first: AbstractContextManager[Any] = serving_of(trained)
    if killed:  # what a killed process leaves: an endpoint, its record, and a lock that is freed
        _start(TRAINERS["together"].connect(trained.spec), trained.spec.training.together, "p1", record.name)
        record.parent.mkdir()
        record.touch()
        first = hold(trained.home / "jobs/.locks" / record.name)
    with first:
        waiting.start()
        pending = re.compile(rf"-> FLOCK .* {os.getpid()} ")  # a thread of this process waits for a lock
        wait_until(lambda: pending.search(Path("/proc/locks").read_text()))
    waiting.join()
    assert recorded == [(1, 1)] and not server.endpoints


def die_while_serving(spec: TaskSpec, out: Path, home: Path) -> None:
    hosted = read_hosted(out)
    assert hosted
    with TRAINERS["together"].serving(spec, hosted, home):
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_endpoint_that_cannot_be_stopped_is_named_and_swept_later(server, trained, monkeypatch) -> None:
    places = (trained.spec, trained.out, trained.home)
    child = multiprocessing.get_context("spawn").Process(target=die_while_serving, args=places)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and len(server.endpoints) == 1
    monkeypatch.setattr("finetune_pipeline.trainers.together._PAUSE", 0.0)
    server.fault = lambda request: "refuse" if request.method in ("DELETE", "PATCH") else None
    with pytest.raises(OutsideError, match="may still run and cost money"):
        train(trained)
    server.fault = lambda request: None
    train(trained)
    assert not server.endpoints and len(server.jobs) == 1
