"""A candidate answers a share of the users or conversations: each keeps its model, and response and log name who answered."""

import json
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.stored_prompt import StoredPrompt
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.models.merging import merge
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.share_rows import in_share
from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.loading import AnyServed, load
from finetune_pipeline.serving.prompted_model import ServedPrompt
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec import Task
from finetune_pipeline_tests.tiny_model import SYSTEM
from finetune_pipeline_tests.unit.models.test_classifier import make_classifier_adapter
from finetune_pipeline_tests.unit.serving.running import Running
from finetune_pipeline_tests.unit.serving.test_shadow import CHAT, TEXT, logged, simple

CANDIDATE = "tickets:2"


def user(chosen: bool, percent: float = 50) -> str:
    """A user whom the candidate answers, or does not."""
    return next(f"u{i}" for i in range(1000) if in_share(f"user:u{i}", CANDIDATE, percent) == chosen)


def said(answer: tuple[int, Any]) -> tuple[str, str]:
    status, completion = answer
    assert status == 200, completion
    return completion["model"], completion["choices"][0]["message"]["content"]


def test_the_share_of_units_is_what_was_asked_grows_without_leaving_any_and_differs_by_candidate() -> None:
    units = [f"user:{i}" for i in range(20_000)]
    ten = {unit for unit in units if in_share(unit, CANDIDATE, 10)}
    fifty = {unit for unit in units if in_share(unit, CANDIDATE, 50)}
    assert 1873 <= len(ten) <= 2127 and 9788 <= len(fifty) <= 10212 and ten < fifty  # three standard errors
    others = {unit for unit in units if in_share(unit, "tickets:3", 10)}
    assert len(ten & others) < 300, "of 200 expected: another candidate gets other users"
    assert in_share("a\ud800", CANDIDATE, 99.9999999)


@pytest.mark.parametrize("kind", ["tuned", "classifier", "prompt", "simple"])
def test_a_candidate_of_any_kind_answers_its_share_and_is_named(
    task: Task, models: Path, tmp_path: Path, kind: str
) -> None:
    beside: AnyServed = ServedModel(CANDIDATE, models / "one", None, SYSTEM, 6)
    if kind == "classifier":
        merge(models / "one", make_classifier_adapter(models / "one", tmp_path / "adapter"), tmp_path / "merged")
        beside = ServedModel(CANDIDATE, tmp_path / "merged" / "model", None, SYSTEM, 6)
    elif kind == "prompt":
        stored = StoredPrompt(name="zero_shot", prompt=Prompt(), mode="restricted", labels=task.spec.labels)
        stored.write(tmp_path / "shipped", tmp_path, tmp_path)
        beside = ServedPrompt(CANDIDATE, models / "one", tmp_path / "shipped", SYSTEM, 6)
    elif kind == "simple":
        beside = simple(tmp_path, 2)
    champion = simple(tmp_path, 1)
    with (running := Running(task, champion, beside=beside)).server:
        first, second = (said(running.chat(TEXT, user=user(chosen))) for chosen in (False, True))
        share = running.ask("/health")[1]["share"]
    running.service.close()
    assert first == ("tickets:1", load(champion).answer(CHAT.messages, None, Event()).text.strip())
    assert second == (CANDIDATE, load(beside).answer(CHAT.messages, None, Event()).text.strip()) and second[1]
    assert [(row["model_version"], row["output"]) for row in logged(task)] == [first, second]
    assert share == {
        "model": CANDIDATE, "percent": 50, "answered": 1, "failed": 0, "is_champion": 0, "problem": ""
    }  # fmt: skip


def test_a_user_or_conversation_keeps_its_model_whatever_name_is_asked(task: Task, tmp_path: Path) -> None:
    with (running := Running(task, simple(tmp_path, 1), beside=simple(tmp_path, 2))).server:
        for chosen, name in ((True, CANDIDATE), (False, "tickets:1")):
            opening = next(f"crash {i}" for i in range(99) if in_share(f"crash {i}", CANDIDATE, 50) == chosen)
            turns = [{"role": role, "content": text} for role, text in (("user", opening), ("assistant", "bug"))]
            turns.append({"role": "user", "content": "password"})
            asked = [running.chat(opening), running.chat(opening, model=CANDIDATE), running.chat("", messages=turns)]
            asked += [running.chat(f"invoice {i}", user=user(chosen), model="tickets:1") for i in range(6)]
            assert {said(answer)[0] for answer in asked} == {name}
    running.service.close()
    assert all(row["share"]["chosen"] == (row["model_version"] == CANDIDATE) for row in logged(task))


def test_the_log_says_who_was_assigned_and_feedback_reaches_the_model_that_answered(task: Task, tmp_path: Path) -> None:
    with (running := Running(task, simple(tmp_path, 1), beside=simple(tmp_path, 2))).server:
        completion = running.chat(TEXT, user=user(True))[1]
        assert running.ask("/feedback", {"id": completion["id"], "flag": "wrong"})[0] == 200
    running.service.close()
    answer, feedback = logged(task)
    assert answer["share"].pop("seconds") >= 0
    assert answer["share"] == {"champion": "tickets:1", "candidate": CANDIDATE, "percent": 50, "chosen": True}
    (row,) = read_logs(task, ArtifactStore(tmp_path / "store")).rows
    assert (row["model_version"], row["flag"], row["share"]["chosen"]) == (CANDIDATE, "wrong", True)
    assert row["reported"] == feedback["timestamp"]


def test_where_the_candidate_fails_the_champion_answers_and_it_is_said_and_counted(
    task: Task, models: Path, tmp_path: Path
) -> None:
    tuned = ServedModel(CANDIDATE, models / "one", None, SYSTEM, 6)
    with (running := Running(task, simple(tmp_path, 1), beside=tuned)).server:
        assert said(running.chat("very long " * 3000, user=user(True)))[0] == "tickets:1"
        assert said(running.chat(TEXT, user=user(True)))[0] == CANDIDATE
        share = running.ask("/health")[1]["share"]
    running.service.close()
    assert (share["answered"], share["failed"]) == (1, 1) and "more than the model's" in share["problem"]
    assert [(row["model_version"], row["share"]["chosen"]) for row in logged(task)] == [
        ("tickets:1", True),
        (CANDIDATE, True),
    ]
    assert [message[:55] for message in running.messages] == ["tickets:2 failed on a row, which the champion answers: "]


def test_classes_that_only_the_champion_has_come_from_the_champion(task: Task, models: Path, tmp_path: Path) -> None:
    merge(models / "one", make_classifier_adapter(models / "one", tmp_path / "adapter"), tmp_path / "merged")
    champion = ServedModel("tickets:1", tmp_path / "merged" / "model", None, SYSTEM, 6)
    with (running := Running(task, champion, beside=simple(tmp_path, 2))).server:
        body = {"messages": CHAT.messages, "user": user(True), "add_generation_prompt": True}
        status, classes = running.ask("/classify", body)
    running.service.close()
    assert status == 200, classes
    assert classes["model"] == "tickets:1" and classes["data"][0]["probs"]
    assert running.share is not None and running.share.facts()["failed"] == 1


def test_a_candidate_that_cannot_be_loaded_leaves_everything_to_the_champion(task: Task, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = ServedSimple(CANDIDATE, tmp_path / "empty", SYSTEM)
    with (running := Running(task, simple(tmp_path, 1), beside=broken)).server:
        assert said(running.chat(TEXT, user=user(True)))[0] == "tickets:1"
        health = running.ask("/health")[1]
    running.service.close()
    assert (health["status"], health["share"]["failed"]) == ("ok", 1)
    assert health["share"]["problem"].startswith("it cannot be loaded: ")
    assert running.messages[0].startswith("tickets:2 answers no conversation, the champion answers all: it cannot be")


def test_a_candidate_that_is_promoted_shares_no_more(task: Task, tmp_path: Path) -> None:
    with (running := Running(task, simple(tmp_path, 1), beside=simple(tmp_path, 2))).server:
        running.champion = simple(tmp_path, 2)
        assert running.service.renew()
        assert {said(running.chat(TEXT, user=user(chosen)))[0] for chosen in (True, False)} == {CANDIDATE}
    running.service.close()
    assert not any("share" in row for row in map(json.loads, (task.folder / "logs/served.jsonl").open()))
