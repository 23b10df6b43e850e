"""No hosted job is bought twice: kills, failing servers, processes at the same time, a lost ledger."""

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.trainers import TrainingOrder, train
from finetune_pipeline_tests.hosted_schedules import processes, run_schedule
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import FAULTS, Reply, Request, refusal
from finetune_pipeline_tests.unit.trainers.orders import persist

Ordered = Callable[..., TrainingOrder]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_in_doubt_is_looked_up_and_not_repeated_blindly(fault, server, ordered) -> None:
    faults = [fault]
    server.keeps_metadata = False
    server.fault = lambda request: faults.pop() if faults and request.path.endswith("/jobs") and request.body else None
    # only what begins late may appear after the doubt; the time for it begins when the request's is over
    patience = (
        {"request_seconds": 0.8, "settle_seconds": 0.8}
        if fault == "late"
        else {"request_seconds": 0.4, "settle_seconds": 0.3}
    )
    server.pause = 1.2 if fault == "late" else 0.8
    persist(ordered(patience))
    if fault == "late":
        time.sleep(2 * server.pause)  # whatever begins late has begun
    assert len(server.jobs) == 1 and not faults


@pytest.mark.parametrize("failing", ["/jobs", "/files"])
def test_after_a_5xx_the_service_is_asked_again_before_a_purchase(server, ordered: Ordered, failing: str) -> None:
    """The first answer of the list lags: behind a purchase that got a 5xx, or behind another machine's, during an upload."""
    usual, lagging, faults = server.answer, [True], [("fail after" if failing == "/jobs" else "busy")]

    def answer(request: Request) -> Reply:
        if request.method == "GET" and request.path.endswith("/jobs") and server.jobs and lagging:
            lagging.pop()
            return Reply({"object": "list", "data": [], "has_more": False})
        return usual(request)

    if failing == "/files":
        train(ordered(name="another machine"))
    server.answer = answer
    server.fault = lambda request: (
        faults.pop() if faults and request.method == "POST" and request.path.endswith(failing) else None
    )
    train(ordered({"settle_seconds": 0.0}))
    assert len(server.jobs) == 1 and not faults and not lagging


def test_a_job_is_found_without_the_ledger(server: OpenAiJobsServer, ordered: Ordered, order: TrainingOrder) -> None:
    train(order)
    shutil.rmtree(order.home)
    train(order)
    assert len(server.jobs) == 1
    train(ordered(epochs=3))
    assert len(server.jobs) == 2, "other hyperparameters are another job"


def test_nothing_is_bought_while_the_service_cannot_say_what_it_has(server: OpenAiJobsServer, ordered: Ordered) -> None:
    server.fault = lambda request: "fail after" if request.path.endswith("/jobs") else None
    order = ordered({"settle_seconds": 0.1})
    with pytest.raises(OutsideError):
        train(order)
    server.fault = lambda request: "fail after" if request.path.endswith("/jobs") and request.body else None
    train(order)
    assert len(server.jobs) == 1
    usual, server.keeps_metadata = server.answer, False
    server.jobs |= {f"ftjob-{n}": {**server.jobs["ftjob-1"], "id": f"ftjob-{n}", "metadata": None} for n in range(2, 6)}
    # the first page again and again, of three jobs
    server.answer = lambda request: usual(replace(request, query={}))  # type: ignore[method-assign]
    shutil.rmtree(order.home)
    with pytest.raises(OutsideError, match="the same 3 jobs again and again"):
        train(order)
    assert len(server.jobs) == 5


def test_a_refused_order_is_not_asked_for_again(server: OpenAiJobsServer, order: TrainingOrder) -> None:
    server.answer = lambda request, usual=server.answer: (  # type: ignore[method-assign,misc]
        usual(request) if request.method == "GET" or request.path.endswith("/files") else refusal(402, "no credit left")
    )
    with pytest.raises(JobError, match="look at the account"):
        train(order)
    assert len(server.asked("POST", "/jobs")) == 1


def test_the_reason_for_which_no_job_was_made_is_told(server: OpenAiJobsServer, ordered: Ordered) -> None:
    """OpenAI answers 429 also where the account has no credit left."""
    usual = server.answer
    server.answer = lambda request: (  # type: ignore[method-assign]
        refusal(429, "You exceeded your current quota")
        if request.path.endswith("/jobs") and request.body
        else usual(request)
    )
    with pytest.raises(OutsideError, match="3 times and has none .* answered 429 .* exceeded your current quota"):
        train(ordered({"settle_seconds": 0.0}))
    assert len(server.asked("POST", "/jobs")) == 3 and not server.jobs


def test_a_bought_job_that_the_account_does_not_have_is_told_with_its_record(server, order) -> None:
    train(order)
    server.jobs.clear()
    (record,) = (order.home / "jobs").glob("*.json")
    with pytest.raises(JobError, match=f"does not know the job ftjob-1.*(?s:.)*remove {record}"):
        train(order)
    assert not server.jobs, "only a person knows whether it was deleted"
    text = record.read_text()
    for damaged in (text[:50], "[]", "null", '{"order": {}}', '"x"'):
        record.write_text(damaged)
        with pytest.raises(OutsideError, match=f"{record} is damaged"):
            train(order)
    record.unlink()
    train(order)
    assert len(server.jobs) == 1


def test_an_upload_that_is_cut_off_is_repeated(server: OpenAiJobsServer, order: TrainingOrder) -> None:
    faults = ["drop", "refuse", "drop after", "busy"]
    server.fault = lambda request: faults.pop() if faults and request.path.endswith("/files") else None
    train(order)
    assert not faults and len(server.jobs) == 1


def test_processes_at_the_same_time_share_one_job(server: OpenAiJobsServer, ordered: Ordered, tmp_path: Path) -> None:
    server.fault = lambda request: "slow" if request.path.endswith("/jobs") and request.body else None
    orders = [replace(ordered(name=str(n)), home=tmp_path / "home") for n in range(3)]
    threads = [threading.Thread(target=train, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.jobs) == 1 and all((tmp_path / str(n) / "out/result.json").exists() for n in range(3))


@pytest.mark.parametrize("trainer", ["openai", "together"])
def test_kills_and_failing_servers_leave_one_job(trainer: str, rows: Path, tmp_path: Path) -> None:
    context = processes()
    outcomes = [run_schedule(trainer, seed, rows, tmp_path / str(seed), context) for seed in (0, 5, 12)]
    assert [(o.jobs, o.done) for o in outcomes] == [(1, True)] * 3, outcomes
    assert sum(o.kills for o in outcomes) >= 2
