"""A cascade on a real pair of servers: what the champion is not sure of is answered by another model, or as declared."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.data.examples import SPLIT_FILES, Example, write_examples
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import ArtifactStore, Builder
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.calibration import AutomationPromise, ReleasedProbability
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.serving.fallback import Fallback, fallback_of
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec import Task, load_task
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline_tests.openai_server import Server, completion, openai_server
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM
from finetune_pipeline_tests.unit.evaluation.baselines import baseline_of
from finetune_pipeline_tests.unit.evaluation.rows import answers
from finetune_pipeline_tests.unit.evaluation.rows import spec as evaluation_spec
from finetune_pipeline_tests.unit.serving.running import Running

SURE, UNSURE = "invoice", "nothing of the kind"
PRICE = {"engine": "OpenAI", "unit": "million_served", "date": "2026-12-01", "note": "a test", "model": "large"}


@pytest.fixture
def other() -> Iterator[Server]:
    with openai_server(lambda body, repeats: "how_to") as server:
        yield server


class World:
    """A task whose champion is a simple model with a promise, and a second model at a server."""

    def __init__(self, folder: Path, other: Server) -> None:
        self.folder, self.other, self.store = folder / "tickets", other, ArtifactStore(folder / "store")
        self.folder.mkdir()
        (self.folder / "prices.yaml").write_text(yaml.safe_dump([{**PRICE, "input": 100, "output": 1000}]))
        texts = [f"{word} {i}" for i in range(8) for word in ("invoice", "password", "crash")]
        labels = LabelsOutput(labels=LABELS)
        fit_simple_models(texts, [LABELS[i % 3] for i in range(24)], labels)["linear"].save(folder / "linear")
        promise = AutomationPromise(threshold=0.5, max_error=0.05)
        probability = ReleasedProbability(digest="d", labels=LABELS, promise=promise)
        self.champion = ServedSimple("tickets:1", folder / "linear", SYSTEM, probability=probability)
        self.baseline()

    def baseline(self) -> None:
        """Store the splits and a baseline in which a prompt with an example was the best."""
        shot = [{"role": "user", "content": "shown"}, {"role": "assistant", "content": "billing"}]

        def splits(builder: Builder) -> None:
            write_examples(builder.folder / SPLIT_FILES["train"], [Example("e", [*shot])])

        def baseline(builder: Builder) -> None:
            prompts = {"api_zero": {"api": True}, "api_one": {"api": True, "shots": 1, "turns": shot}, "zero": {}}
            write_json(builder.folder / "prompts.json", prompts)
            right = {"api_zero": 10, "api_one": 18, "zero": 20}
            rows = {name: answers(n, 20, name) for name, n in right.items()}
            builder.facts.update(baseline_of(score_baselines(evaluation_spec(), rows)).to_json())

        key: dict[str, Any] = {"code_version": "1", "settings": {}}
        made = self.store.build("tickets", "splits", **key, inputs={}, make=splits)
        self.store.build("tickets", "few_shot_baseline", **key, inputs={"train_split": made.version}, make=baseline)

    def task(self, **automation: Any) -> Task:
        endpoint = {"url": self.other.url, "model": "large", "key_variable": "SECOND_KEY"}
        spec = {"name": "tickets", "description": "d", "system_prompt": SYSTEM, "baseline": {"endpoint": endpoint}}
        spec |= {"output": {"kind": "labels", "labels": LABELS}, "automation": {"max_error": 0.05, **automation}}
        (self.folder / "task.yaml").write_text(yaml.safe_dump(spec))
        return load_task(self.folder)

    def fallback(self, task: Task) -> Fallback:
        cache = AnswerCache(self.folder / "answers.sqlite", 8)
        return fallback_of(task, self.store, load_prices(task_folder=task.folder), cache)

    def running(self, **automation: Any) -> Running:
        task = self.task(**automation)
        return Running(task, self.champion, self.fallback(task))

    def logged(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "logs" / "served.jsonl").read_text().splitlines()]


@pytest.fixture
def world(tmp_path: Path, other: Server, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("SECOND_KEY", "sk-second")
    return World(tmp_path, other)


def choice(answer: tuple[int, Any]) -> dict[str, Any]:
    assert answer[0] == 200, answer
    return dict(answer[1]["choices"][0])


def test_the_second_model_answers_what_is_passed_on_and_its_answer_is_marked_logged_and_paid(
    world: World, other: Server
) -> None:
    with (running := world.running()).server:
        sure, unsure, again = (choice(running.chat(text)) for text in (SURE, UNSURE, UNSURE))
        assert choice(running.chat("never seen", store=False))["message"]["content"] == "how_to"
    assert (sure["message"]["content"], sure["passed_on"]) == ("billing", False) and "answered_by" not in sure
    assert unsure["message"]["content"] == again["message"]["content"] == "how_to"
    assert unsure["passed_on"] and unsure["probability"] < 0.5 and unsure["answered_by"] == "large at 127.0.0.1"
    assert len(other.requests) == 2, "nothing that is sure is sent, and an equal question is answered from the cache"
    system, *shown, question = other.requests[0]["messages"]
    assert (system["content"], question["content"]) == (SYSTEM, UNSURE), "the task's best prompt"
    assert [turn["content"] for turn in shown] == ["shown", "billing"]
    assert (other.requests[0]["key"], other.requests[0]["temperature"]) == ("Bearer sk-second", 0)
    first, second, third = world.logged()
    assert (first["output"], first["passed_on"], "metadata" in first) == ("billing", False, False)
    assert (second["output"], second["answered_by"]) == ("how_to", "large at 127.0.0.1")
    cost = (7 * 100 + 3 * 1000) / 1e6
    spent = {"prompt_tokens": 7, "new_tokens": 3, "dollars": cost}
    assert second["metadata"]["fallback"] == spent and second["metadata"]["own_answer"] in LABELS
    assert third["metadata"]["fallback"]["dollars"] == 0
    assert world.fallback(world.task()).spending.month().dollars == pytest.approx(2 * cost), "kept for the next server"
    rows = read_logs(world.task(), world.store).rows
    assert [row.get("answered_by") for row in rows] == [None, "large at 127.0.0.1", "large at 127.0.0.1"]


FAULTS: dict[str, tuple[Any, str]] = {
    "down": ((500, {}, b"no"), "refused: 500"),
    "a wrong key": ((401, {}, b"no"), "refused: 401"),
    "busy": ((429, {"Retry-After": "30"}, b"no"), "refused: 429"),
    "slow": (3.0, "timeout: no whole answer within 0.5 seconds"),
    "wrong form": ("I think it is billing", "wrong form"),
    "cut": (completion("billing", finish="length"), "wrong form: the answer is longer"),
    "garbled": ({"object": "x"}, "garbled"),
    "filtered": (completion(None, finish="content_filter"), "filtered"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_goes_wrong_the_client_gets_the_declared_answer(world: World, other: Server, fault: str) -> None:
    result, why = FAULTS[fault]
    other.mind = lambda body, repeats: result
    with (running := world.running(fallback_seconds=0.5)).server:
        own = choice(running.chat(UNSURE))
        problem = running.ask("/health")[1]["problems"]["fallback"]
        other.mind = lambda body, repeats: "how_to"
        assert choice(running.chat("never seen"))["message"]["content"] == "how_to"
        assert running.ask("/health")[1]["status"] == "ok", "it recovers"
    assert own["message"]["content"] in LABELS and own["passed_on"] is True and "answered_by" not in own
    assert why in problem and running.messages == [f"the fallback did not answer: {problem}"]
    row = world.logged()[0]
    assert row["output"] == own["message"]["content"] and why in row["metadata"]["fallback"]["problem"]
    assert "sk-second" not in json.dumps(world.logged()) + problem
    other.mind = lambda body, repeats: result
    with (running := world.running(fallback_seconds=0.5, refusal="A person will answer you.")).server:
        refused, sure = choice(running.chat(f"{UNSURE} at all")), choice(running.chat(SURE))
        streamed = running.chat(f"{UNSURE} at all", stream=True)[1]
    message = refused["message"]
    assert (message["content"], message["refusal"]) == (None, "A person will answer you.")
    assert refused["answered_by"] == "refusal" and sure["message"]["content"] == "billing"
    assert '"refusal": "A person will answer you."' in streamed
    row = world.logged()[2]
    assert (row["answered_by"], row["output"]) == ("refusal", row["metadata"]["own_answer"])


def test_an_unreachable_server_costs_nothing_and_stops_no_answer(world: World, other: Server) -> None:
    running = world.running()
    other.server_close()
    with running.server:
        assert choice(running.chat(UNSURE))["passed_on"] is True
        assert "unreachable" in running.ask("/health")[1]["problems"]["fallback"]
    assert world.fallback(world.task()).spending.month().dollars == 0


def test_the_budget_of_the_month_ends_the_questions_and_nothing_is_sent_without_room_for_its_largest_cost(
    world: World, other: Server
) -> None:
    with (running := world.running(fallback_dollars=0.05)).server:
        answers = [choice(running.chat(f"{UNSURE} {i}")) for i in range(12)]
        assert "budget: $0.05 a month" in running.ask("/health")[1]["problems"]["fallback"]
    asked = sum("answered_by" in answer for answer in answers)
    assert 0 < asked == len(other.requests) < 12
    assert (
        world.fallback(world.task()).spending.month().dollars == pytest.approx(asked * 0.0037)
        and asked * 0.0037 <= 0.05
    )


def test_what_is_missing_is_said_before_anything_is_served(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = world.task()
    (world.folder / "prices.yaml").write_text(yaml.safe_dump([{**PRICE, "model": "another", "input": 1, "output": 1}]))
    with pytest.raises(OutsideError, match="no price of large"):
        world.fallback(task)
    (world.folder / "prices.yaml").write_text(yaml.safe_dump([{**PRICE, "input": 1, "output": 1}]))
    monkeypatch.delenv("SECOND_KEY")
    with pytest.raises(OutsideError, match="SECOND_KEY is not set"):
        world.fallback(task)
    without = task.spec.model_copy(update={"automation": task.spec.automation.model_copy(update={"max_error": None})})
    with pytest.raises(OutsideError, match="nothing is ever passed on"):
        world.fallback(Task(spec=without, folder=task.folder))
    without = task.spec.model_copy(update={"baseline": task.spec.baseline.model_copy(update={"endpoint": None})})
    with pytest.raises(OutsideError, match="names no model"):
        world.fallback(Task(spec=without, folder=task.folder))
    world.store = ArtifactStore(tmp_path / "empty")
    with pytest.raises(OutsideError, match="were not tried yet"):
        world.fallback(task)
