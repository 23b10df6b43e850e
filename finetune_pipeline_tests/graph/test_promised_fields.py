"""A promise by field in the real graph: from rows of JSON to a verdict, a served answer that marks its fields, its log line, and
the next round that reads it."""

import json
import random
from typing import Any

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.calibration import released_probability
from finetune_pipeline.orchestration.release import champion_quality
from finetune_pipeline.spec import load_task
from finetune_pipeline_tests.graph.project import LORA, Project
from finetune_pipeline_tests.graph.test_shipped_kinds import chat, serving
from finetune_pipeline_tests.skilled_model import WORDS

FRUITS = ["apples", "pears", "plums"]
SCHEMA = {
    "type": "object",
    "properties": {"fruit": {"enum": FRUITS}, "number": {"type": "integer"}},
    "required": ["fruit", "number"],
    "additionalProperties": False,
}


def orders(n: int, seed: int) -> list[dict[str, str]]:
    """Orders of which one in ten does not say what is ordered. No two are near-duplicates."""
    rng, made = random.Random(seed), []
    for _ in range(n):
        fruit, number = rng.choice(FRUITS), rng.randrange(2, 5000)
        words = rng.sample(WORDS, 6)
        words.insert(rng.randrange(7), f"send {number} {fruit if rng.random() < 0.9 else 'fruit'}")
        made.append({"prompt": " ".join(words), "completion": json.dumps({"fruit": fruit, "number": number})})
    return made


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after a run in which a simple model is good enough and keeps the promise."""
    project = Project(
        tmp_path_factory.mktemp("fields"),
        training=LORA,
        description="Reads orders.",
        system_prompt="Answer with JSON.",
        output={"kind": "json", "json_schema": SCHEMA},
        data={"min_examples": 60},
        split={"validation": 0.2, "test": 0.3},
        baseline={"shots": [0], "max_new_tokens": 6, "batch_size": 8, "ceiling": 0.8},
        gates={"min_valid_share": 0.8},
        automation={"max_error": 0.05, "unit": "field"},
        logs={"judging_share": 0.0, "max_family_share": 1.0, "settle_seconds": 0},
    )
    project.write_rows(orders(700, 1))
    code, output = project.run()
    assert (code, output.get("decision")) == (0, "ship_simple"), output
    return project


def logged(project: Project) -> dict[str, dict[str, Any]]:
    """The answers in the log, by id."""
    lines = map(json.loads, (project.folder / "logs" / "served.jsonl").read_text().splitlines())
    return {line["id"]: line for line in lines if "output" in line}


def unsure(order: dict[str, str]) -> bool:
    """Whether an order does not say what is ordered."""
    return json.loads(order["completion"])["fruit"] not in order["prompt"]


def test_the_verdict_promises_fields_and_the_release_keeps_the_promise(project: Project) -> None:
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    promise = report["probabilities"]["simple_tagger"]["automation"]
    assert (promise["unit"], promise["fields"], promise["n"]) == ("field", ["fruit", "number"], report["n"])
    assert promise["coverage"] == pytest.approx(0.95, abs=0.04), "one field in twenty is unsure"
    assert promise["whole_coverage"] == pytest.approx(0.9, abs=0.05) and promise["upper_bound"] <= 0.05
    page = (project.artifact("evaluation_report") / "report.md").read_text()
    verdict = next(line for line in page.splitlines() if "by itself, at most 5.0% wrong" in line)
    assert "field" in verdict.partition("passes on ")[2]
    (tagger,) = [finalist for finalist in report["finalists"] if finalist["name"] == "tagger"]
    assert {gate["name"]: gate["status"] for gate in tagger["gates"]}["automation"] == "passed"
    released = released_probability(read_json(project.artifact("model_version") / "model_version.json"))
    assert released is not None and released.promise is not None
    assert (released.promise.threshold, released.promise.unit) == (promise["threshold"], "field")


@pytest.fixture(scope="module")
def served(project: Project) -> list[tuple[dict[str, str], dict[str, Any]]]:
    """Orders and the served answers to them. A person corrects those that are passed on."""
    replies = []
    with serving(project) as ask:
        for order in orders(80, 7):
            reply = chat(ask, order["prompt"])
            replies.append((order, reply))
            if reply["choices"][0]["passed_on"]:
                ask("/feedback", {"id": reply["id"], "correction": order["completion"]})
    return replies


def test_a_served_answer_and_its_log_line_mark_each_unsure_field(
    project: Project, served: list[tuple[dict[str, str], dict[str, Any]]]
) -> None:
    log, passed_on = logged(project), 0
    for order, reply in served:
        (choice,) = reply["choices"]
        assert choice["fields_passed_on"] == (["fruit"] if unsure(order) else []), order
        assert choice["passed_on"] is unsure(order) and set(choice["field_probabilities"]) == {"fruit", "number"}
        if not unsure(order):
            assert json.loads(choice["message"]["content"]) == json.loads(order["completion"])
        line = log[reply["id"]]
        marks = ("field_probabilities", "fields_passed_on", "passed_on")
        assert [line[mark] for mark in marks] == [choice[mark] for mark in marks] and "probability" not in line
        passed_on += unsure(order)
    assert 3 <= passed_on <= 15


def test_the_next_round_trains_on_corrected_orders_and_watches_the_promise(
    project: Project, served: list[tuple[dict[str, str], dict[str, Any]]]
) -> None:
    corrected = {order["prompt"] for order, _ in served if unsure(order)}
    store = ArtifactStore(project.home / "artifacts")
    quality = champion_quality(load_task(project.folder), store, project.tracking).result
    assert quality.passed and quality.figures["promise_passed_on"] == len(corrected) / len(served)
    assert f"of {len(served)} rows were passed on" in quality.message
    code, output = project.run()
    assert code in (0, 2), output
    rows = read_examples(project.artifact("raw_examples") / "files" / "production.jsonl")
    assert {row.user_text for row in rows} == corrected
    assert project.facts("production_logs")["corrections"] == len(corrected)
    report = json.loads((project.artifact("evaluation_report") / "report.json").read_text())
    assert report["champion_kind"] == "simple"
    assert report["probabilities"]["simple_tagger"]["automation"]["threshold"] is not None
