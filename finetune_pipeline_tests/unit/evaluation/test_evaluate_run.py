"""The evaluation: everything in it is plain JSON, and it refuses predictions that do not belong together."""

from __future__ import annotations

import json
import math

import jsonschema
import numpy as np
import pytest

from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.prompts import TrainingRow
from finetune_pipeline.evaluation.result import BaseMode, EvaluationResult, FormOf
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    TRAINING,
    arguments,
    champion_rows,
    evaluation,
    evaluation_and_rows,
    json_evaluation,
    text_evaluation,
)
from finetune_pipeline_tests.unit.evaluation.rows import paired, row


def test_ids_stand_beside_the_main_comparison_alone():
    outcome = evaluation()
    assert outcome.comparison.broken == [] and len(outcome.comparisons["baseline"].broken) == 5
    assert outcome.comparisons["champion"] is None


def test_models_stand_in_order_and_validation_is_apart():
    models = evaluation().models
    assert list(models) == [
        "validation_zero_shot",
        "validation_zero_shot_restricted",
        "validation_8_shot",
        "validation_8_shot_restricted",
        "base",
        "base_restricted",
        "simple_commonest",
        "simple_nearest",
        "simple_linear",
        "candidate",
        "candidate_restricted",
    ]
    assert models["validation_8_shot"].title == "Base, 8-shot (best prompt)"
    assert {m.n for m in models.values() if m.set == "validation"} == {40}
    assert models["candidate"].accuracy == 0.8
    assert models["simple_linear"].correct == sum(1 for i in range(200) if i % 2 or i % 3 == 2)


def test_it_is_strict_json_even_with_numbers_that_are_none():
    outcome = evaluation(training=TRAINING | {"best_eval_loss": math.nan, "scale": np.float32(0.5)})
    stored = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert EvaluationResult.model_validate(stored) == outcome and stored == outcome.to_json()
    assert stored["training"]["best_eval_loss"] is None
    assert stored["training"]["scale"] == 0.5, "facts that nobody reads are kept"


@pytest.mark.parametrize("result", [evaluation, json_evaluation, text_evaluation])
def test_the_published_schema_describes_what_is_written(result):
    schema = EvaluationResult.model_json_schema()
    jsonschema.validate(result().to_json(), schema)
    assert {"scores", "decisions", "gates"} <= set(schema["required"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(result().to_json() | {"decisions": None}, schema)


def test_the_champion_is_compared():
    predictions = [*arguments()["predictions"], *champion_rows(150)]
    outcome = evaluation(predictions=predictions, versions={"champion": "3"})
    assert outcome.scores["champion"].correct == 150
    assert outcome.comparisons["champion"].gain == pytest.approx(10 / 200)
    assert outcome.models["champion"].accuracy == 0.75


def test_holm_adjusts_for_every_comparison_made():
    outcome = evaluation().comparisons
    made = {name: c for name, c in outcome.items() if c}
    assert set(made) == {"baseline", "base_restricted", "simple_commonest", "simple_nearest", "simple_linear"}
    smallest = min(made.values(), key=lambda c: c.mcnemar_p)
    assert smallest.mcnemar_p_holm == pytest.approx(5 * smallest.mcnemar_p)


def test_the_gap_between_form_and_judgement():
    base, candidate = paired(20, 0, 0, 0)
    for r in base:
        r["text"] = f"Label: {r['text']}"
    outcome = evaluation(predictions=[*base, *candidate])
    gap = outcome.format_gap
    assert outcome.base_at_its_best == BaseMode(mode="restricted", valid_share=0.0)
    assert outcome.comparison.gain == 0.0, "what decides is the base model with its answers restricted"
    assert gap.base == FormOf(free=0.0, restricted=1.0, gap=1.0, valid_share=0.0)
    assert gap.closed_by_decoding == 1.0


def test_a_base_out_of_form_without_restricted_answers_is_read_leniently():
    base, candidate = paired(20, 0, 0, 0)
    for r in base:
        r |= {"text": f"Label: {r['text']}.", "label_scores": []}
    outcome = evaluation(predictions=[*base, *candidate])
    assert outcome.base_at_its_best.mode == "lenient" and outcome.comparison.base == 1.0
    assert outcome.scores["base"].correct == 0, "the table still shows what it writes freely"


def test_regressions_and_fixes_are_named_and_their_texts_are_apart():
    outcome, shown = evaluation_and_rows()
    assert outcome.regressions.total == len(outcome.regressions.shown) == 5
    first = shown.tested[outcome.regressions.shown[0]]
    assert first.id == "e0100" and first.text == "text of e0100"
    assert first.base == first.gold != first.candidate
    assert (outcome.fixes.total, len(outcome.fixes.shown)) == (60, 10)
    assert evaluation_and_rows(texts={})[1].tested["e0100"].text is None


def test_the_result_that_gates_and_model_card_read_holds_no_text_of_a_row():
    texts = {f"e{i:04d}": f"secret{i} words" for i in range(200)}
    trained = [TrainingRow(f"t{i}", f"hidden{i} words", "bug") for i in range(20)]
    outcome, shown = evaluation_and_rows(texts=texts, trained=trained, never_break=["e0180"])
    assert outcome.never_break.broken == ["e0180"] and any(group.nearest for group in outcome.atlas.groups)
    stored, apart = json.dumps(outcome.to_json()), shown.model_dump_json()
    assert "secret" in apart and "hidden" in apart and ShownRows.model_validate_json(apart) == shown
    assert "secret" not in stored and "hidden" not in stored


def test_wrong_answers_are_grouped_and_all_are_counted():
    base, candidate = paired(10, 0, 0, 4)
    candidate[-1] = row(13, candidate[-1]["gold"], "no idea", "candidate")
    candidate[-2] = row(12, candidate[-2]["gold"], "bug", "candidate", status="truncated")
    outcome, shown = evaluation_and_rows(predictions=[*base, *candidate])
    groups = outcome.wrong_answers
    assert sum(g.count for g in groups) == 4
    said = {(g.gold, g.predicted): [r.candidate for r in shown.test_rows(g.examples)] for g in groups}
    assert said["billing", "invalid"] == ["no idea"]
    assert said["bug", "invalid"] == ["bug (cut at the token limit)"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: {"predictions": [r for r in a["predictions"] if r["model"] == "base"]},
            "no predictions of candidate",
        ),
        (lambda a: {"predictions": [*a["predictions"], row(1, "bug", "bug", "gpt")]}, "unexpected model 'gpt'"),
        (
            lambda a: {"versions": {"champion": "7"}},
            r"no predictions of the champion, though there is one \(version 7\)",
        ),
        (lambda a: {"predictions": a["predictions"][:-1]}, "do not cover the same examples"),
        (
            lambda a: {"predictions": [r for r in a["predictions"] if r["model"] != "simple_linear"][:-1]},
            "do not cover the same examples",
        ),
    ],
)
def test_refuses_what_does_not_belong_together(change, message):
    with pytest.raises(ValueError, match=message):
        evaluation(**change(arguments()))
