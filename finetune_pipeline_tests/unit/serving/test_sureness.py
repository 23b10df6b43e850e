"""How sure an answer is, in the response and in the log, for every kind of champion."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.calibration import AutomationPromise, Calibration, ReleasedProbability
from finetune_pipeline.evaluation.simple_models import fit_simple_models
from finetune_pipeline.evaluation.token_probabilities import FORM
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.merging import merge
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.serving.sureness import sureness
from finetune_pipeline.spec import Task
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM
from finetune_pipeline_tests.unit.evaluation.test_probabilities import orders
from finetune_pipeline_tests.unit.models.test_classifier import make_classifier_adapter
from finetune_pipeline_tests.unit.serving.running import Running

TEMPERATURE = Calibration(method="temperature", slope=0.5, rows=100)


def released(threshold: float | None, labels: list[str] = LABELS) -> ReleasedProbability:
    promise = None if threshold is None else AutomationPromise(threshold=threshold, max_error=0.05)
    return ReleasedProbability(digest="d", labels=labels, calibration=TEMPERATURE, promise=promise)


def calibrated(probability: float) -> float:
    """Half the logit."""
    return 1 / (1 + math.exp(-0.5 * math.log(probability / (1 - probability))))


def logged(task: Task, tmp_path: Path) -> list[Any]:
    rows = read_logs(task, ArtifactStore(tmp_path / "store")).rows
    return [(row["id"], row.get("probability"), row.get("passed_on")) for row in rows]


def test_a_classifier_is_sure_above_the_threshold_and_passes_on_below(task: Task, models: Path, tmp_path: Path) -> None:
    merge(models / "one", make_classifier_adapter(models / "one", tmp_path / "adapter"), tmp_path / "merged")
    champion = ServedModel("tickets:1", tmp_path / "merged" / "model", None, SYSTEM, 12, probability=released(0.3))
    with (running := Running(task, champion)).server:
        first = running.chat(logprobs=True)[1]
        (choice,) = first["choices"]
        expected = calibrated(math.exp(choice["logprobs"]["content"][0]["logprob"]))
        assert choice["probability"] == pytest.approx(expected) and choice["passed_on"] is False
        running.champion = replace(champion, name="tickets:2", probability=released(expected + 0.001))
        assert running.service.renew()
        second = running.chat()[1]
        assert second["choices"][0]["passed_on"] is True
        body = {"messages": [{"role": "user", "content": "my invoice is wrong"}], "add_generation_prompt": True}
        classified = running.ask("/classify", body)[1]
        assert classified["data"][0]["passed_on"] is True
        last = running.chat(stream=True)[1].split("\n\n")[-3]
        assert json.loads(last.removeprefix("data: "))["choices"][0]["passed_on"] is True
        running.champion = replace(champion, name="tickets:3", probability=released(None))
        assert running.service.renew()
        assert "passed_on" not in running.chat(store=False)[1]["choices"][0], "nothing was promised"
    rows = logged(task, tmp_path)
    assert (first["id"], pytest.approx(expected), False) in rows
    assert (second["id"], pytest.approx(expected), True) in rows
    assert (classified["id"], pytest.approx(expected), True) in rows


def test_a_written_label_is_sure_only_if_it_is_the_likeliest_one(task: Task, models: Path, tmp_path: Path) -> None:
    """The tiny model writes no label: nothing that it writes is sure."""
    champion = ServedModel("tickets:1", models / "one", None, SYSTEM, 12, probability=released(0.0001))
    with (running := Running(task, champion)).server:
        (choice,) = running.chat()[1]["choices"]
    assert choice["message"]["content"] not in LABELS
    assert (choice["probability"], choice["passed_on"]) == (None, True)
    assert logged(task, tmp_path)[0][1:] == (None, True)


def test_written_json_is_as_sure_as_its_tokens_unless_it_is_decoded_otherwise_than_in_the_evaluation(
    task: Task, models: Path
) -> None:
    known = released(0.0001, labels=[])
    schema = {"type": "boolean"}
    champion = ServedModel("t:1", models / "one", None, SYSTEM, 12, "serving", schema, True, known)
    asked = {"response_format": {"type": "json_object"}, "logprobs": True}
    with (running := Running(task, champion)).server:
        (choice,) = running.chat(**asked)[1]["choices"]
        written = sum(token["logprob"] for token in choice["logprobs"]["content"])
        assert choice["passed_on"] is False
        assert choice["probability"] == pytest.approx(calibrated(math.exp(written)), abs=0.01)
        assert running.chat(max_tokens=1)[1]["choices"][0]["passed_on"] is True, "truncated"
        running.champion = replace(champion, name="t:2", constrained=False)
        assert running.service.renew()
        (choice,) = running.chat(**asked)[1]["choices"]
        assert (choice["probability"], choice["passed_on"]) == (None, True)


def test_a_simple_model_is_sure_by_its_probabilities(task: Task, tmp_path: Path) -> None:
    texts = [f"{word} {i}" for i in range(8) for word in ("invoice", "password", "crash")]
    linear = fit_simple_models(texts, [LABELS[i % 3] for i in range(24)], LabelsOutput(labels=LABELS))["linear"]
    linear.save(tmp_path / "linear")
    champion = ServedSimple("tickets:1", tmp_path / "linear", SYSTEM, probability=released(0.5))
    with (running := Running(task, champion)).server:
        sure, unsure = (running.chat(text)[1]["choices"][0] for text in ("invoice", "nothing of the kind"))
    for choice, text in ((sure, "invoice"), (unsure, "nothing of the kind")):
        (shares,) = linear.probabilities([text]) or ()
        assert choice["probability"] == pytest.approx(calibrated(max(shares.values())))
    assert (sure["passed_on"], unsure["passed_on"]) == (False, True)


def of_fields(threshold: float, fields: list[str]) -> ReleasedProbability:
    promise = AutomationPromise(threshold=threshold, max_error=0.05, unit="field", fields=fields)
    return ReleasedProbability(digest="d", calibration=TEMPERATURE, promise=promise)


def test_a_field_is_passed_on_if_it_is_unsure_untested_or_without_a_probability() -> None:
    """A field that is left out has the probability of the form, and an answer one unsure field of which is passed on."""
    answer = Answer(text="{}", log_probabilities=[-0.01])
    shares = {FORM: 0.9, "city": 0.8, "guests": 0.4, "notes": 0.99, "copied": 0.0}
    known = of_fields(0.6, ["city", "copied", "date", "guests"])
    sure = sureness(answer, [], known, fields=lambda _: shares)
    assert (
        sure
        and sure.passed_on
        and sure.facts()
        == {
            "field_probabilities": {
                "city": pytest.approx(2 / 3),
                "copied": None,
                "date": pytest.approx(0.75),
                "guests": pytest.approx(calibrated(0.4)),
                "notes": pytest.approx(calibrated(0.99)),
            },
            "fields_passed_on": ["copied", "guests", "notes"],
            "passed_on": True,
        }
    )
    all_sure = sureness(answer, [], of_fields(0.6, ["city", "date"]), fields=lambda _: {FORM: 0.9, "city": 0.8})
    assert all_sure and not all_sure.passed_on and all_sure.facts()["fields_passed_on"] == []
    otherwise = sureness(answer, [], of_fields(0.6, ["city"]), as_evaluated=False, fields=lambda _: shares)
    assert otherwise and otherwise.facts()["field_probabilities"] == {"city": None} and otherwise.passed_on


def test_the_fields_of_a_span_taggers_answers_are_marked_in_response_and_log(task: Task, tmp_path: Path) -> None:
    train = orders(300, 1)
    output = JsonOutput(json_schema={"type": "object"})
    tagger = fit_simple_models(*map(list, zip(*train, strict=True)), output)["tagger"]
    tagger.save(tmp_path / "tagger")
    texts = ["please send 41 apples", "please send 41 fruit"]
    known = of_fields(0.75, ["fruit", "number"])
    champion = ServedSimple("orders:1", tmp_path / "tagger", SYSTEM, probability=known)
    with (running := Running(task, champion)).server:
        replies = [running.chat(text)[1] for text in texts]
    sure, unsure = (reply["choices"][0] for reply in replies)
    assert json.loads(sure["message"]["content"]) == {"fruit": "apples", "number": 41}
    assert (sure["passed_on"], sure["fields_passed_on"]) == (False, []) and "probability" not in sure
    assert unsure["passed_on"] and unsure["fields_passed_on"] == ["fruit"]
    for choice, shares in zip((sure, unsure), tagger.field_probabilities(texts) or (), strict=True):
        assert choice["field_probabilities"] == pytest.approx({name: calibrated(p) for name, p in shares.items()})
    rows = {row["id"]: row for row in read_logs(task, ArtifactStore(tmp_path / "store")).rows}
    logged_row = rows[replies[1]["id"]]
    assert logged_row["passed_on"] and logged_row["fields_passed_on"] == ["fruit"]
    assert logged_row["field_probabilities"] == pytest.approx(unsure["field_probabilities"])


def test_a_written_field_is_as_sure_as_the_tokens_of_its_value(task: Task, models: Path) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [True, False]}}, "required": ["a"]}
    schema |= {"additionalProperties": False}
    champion = ServedModel(
        "t:1", models / "one", None, SYSTEM, 30, "serving", schema, True, of_fields(0.0001, ["a", "b"])
    )
    with (running := Running(task, champion)).server:
        (choice,) = running.chat(logprobs=True)[1]["choices"]
        assert set(json.loads(choice["message"]["content"])) == {"a"}
        shares = choice["field_probabilities"]
        logs = choice["logprobs"]["content"]
        value = [token["logprob"] for token in logs if token["token"].strip() in ("true", "false")]
        if len(value) == 1:  # one token
            assert shares["a"] == pytest.approx(calibrated(math.exp(value[0])), abs=0.01)
        written = sum(token["logprob"] for token in logs)
        raw = [1 / (1 + ((1 - p) / p) ** 2) for p in (shares["a"], shares["b"])]
        assert math.prod(raw) == pytest.approx(math.exp(written), rel=0.02), "values and form make the answer"
        assert choice["passed_on"] is False
        cut = running.chat(max_tokens=2)[1]["choices"][0]
        assert cut["passed_on"] and cut["field_probabilities"] == {"a": None, "b": None}
