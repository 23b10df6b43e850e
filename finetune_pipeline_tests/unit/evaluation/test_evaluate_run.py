"""The evaluation: everything in it is plain JSON, and it refuses predictions that do not belong together."""

import json
import math
import re

import jsonschema
import pytest
from pydantic import ValidationError

from finetune_pipeline.evaluation.decisions import BaseMode, FormOf
from finetune_pipeline.evaluation.failures.atlas import ShownRows
from finetune_pipeline.evaluation.gates.beats_baseline import beats_baseline
from finetune_pipeline.evaluation.prompts import TrainingRow
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    PARITY,
    TRAINING,
    arguments,
    changed,
    evaluation,
    evaluation_and_rows,
    json_evaluation,
    text_evaluation,
    usual,
)
from finetune_pipeline_tests.unit.evaluation.rows import answers, paired, row, spec


@pytest.fixture(scope="module")
def outcome():
    return evaluation()


def test_models_stand_in_order_and_validation_is_apart(outcome):
    names = (
        "validation_zero_shot validation_zero_shot_restricted validation_8_shot validation_8_shot_restricted "
        "validation_simple_commonest validation_simple_nearest validation_simple_linear base base_restricted "
        "simple_commonest simple_nearest simple_linear candidate candidate_restricted"
    )
    models = outcome.models
    assert list(models) == names.split()
    assert models["validation_8_shot"].title == "Base, 8-shot (best prompt)"
    assert {m.n for m in models.values() if m.set == "validation"} == {40}
    assert models["candidate"].accuracy == 0.8
    assert models["simple_linear"].correct == sum(1 for i in range(200) if i % 2 or i % 3 == 2)
    assert outcome.comparison.broken == [] and len(outcome.comparisons["baseline"].broken) == 5


def test_it_is_strict_json_and_the_published_schema_describes_it():
    schema = EvaluationResult.model_json_schema()
    odd = changed(usual(), {"decisions.baseline.margin": math.nan})
    for result in (odd, json_evaluation(), text_evaluation()):
        stored = json.loads(json.dumps(result.to_json(), allow_nan=False))
        assert EvaluationResult.model_validate(stored) == result and stored == result.to_json()
        jsonschema.validate(stored, schema)
    assert odd.to_json()["decisions"]["baseline"]["margin"] is None and odd.to_json()["training"] == TRAINING
    assert evaluation(parity=PARITY | {"mean_kl": math.nan}).to_json()["parity"]["mean_kl"] is None
    with pytest.raises(ValidationError, match=re.escape("Expected `int`, got `str` - at `$.steps`")):
        evaluation(training=TRAINING | {"steps": "40"})
    assert {"scores", "decisions", "gate_settings"} <= set(schema["required"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(stored | {"decisions": None}, schema)


def test_the_champion_is_compared_and_holm_adjusts_for_every_comparison_made(outcome):
    comparisons = {name: c for name, c in outcome.comparisons.items() if c}
    assert set(comparisons) == {"baseline", "base_restricted", "simple_commonest", "simple_nearest", "simple_linear"}
    smallest = min(comparisons.values(), key=lambda c: c.mcnemar_p)
    assert smallest.mcnemar_p_holm == pytest.approx(5 * smallest.mcnemar_p)
    predictions = [*arguments()["predictions"], *answers(150, model="champion")]
    beside = evaluation(predictions=predictions, versions={"champion": "3"})
    assert beside.scores["champion"].correct == 150 and beside.models["champion"].accuracy == 0.75
    assert beside.comparisons["champion"].gain == pytest.approx(10 / 200)


def test_a_base_out_of_form_is_read_by_its_restricted_answers_or_as_it_writes_where_there_are_none():
    base, candidate = paired(20, 0, 0, 0)
    base = [r | {"text": f"Label: {r['text']}."} for r in base]
    outcome = evaluation(predictions=[*base, *candidate])
    assert outcome.base_at_its_best == BaseMode(mode="restricted", valid_share=0.0)
    assert outcome.comparison.gain == 0.0, "what decides is the base model with its answers restricted"
    assert outcome.format_gap.base == FormOf(free=0.0, restricted=1.0, gap=1.0, valid_share=0.0)
    assert outcome.format_gap.closed_by_decoding == 1.0
    outcome = evaluation(predictions=[*(r | {"label_scores": []} for r in base), *candidate])
    assert outcome.base_at_its_best == BaseMode(mode="free", valid_share=0.0) and outcome.comparison.base == 0.0
    gate = beats_baseline(spec(), outcome)
    assert gate.passed and "cannot restrict them: the gain may be one of form alone" in gate.message


def test_regressions_and_fixes_are_named_and_their_texts_are_apart():
    outcome, shown_rows = evaluation_and_rows()
    assert outcome.regressions.total == len(outcome.regressions.shown) == 5
    first = shown_rows.tested[outcome.regressions.shown[0]]
    assert first.id == "e0100" and first.text == "text of e0100"
    assert first.base == first.gold != first.candidate
    assert (outcome.fixes.total, len(outcome.fixes.shown)) == (60, 10)
    assert evaluation_and_rows(texts={})[1].tested["e0100"].text is None


def test_the_result_that_gates_and_model_card_read_holds_no_text_of_a_row():
    texts = {f"e{i:04d}": f"secret{i} words" for i in range(200)}
    trained = [TrainingRow(f"t{i}", f"hidden{i} words", "bug") for i in range(20)]
    outcome, shown_rows = evaluation_and_rows(texts=texts, trained=trained, never_break=["e0180"])
    assert outcome.never_break.broken == ["e0180"] and any(group.nearest for group in outcome.atlas.groups)
    stored, apart = json.dumps(outcome.to_json()), shown_rows.model_dump_json()
    assert "secret" in apart and "hidden" in apart and ShownRows.model_validate_json(apart) == shown_rows
    assert "secret" not in stored and "hidden" not in stored


def test_wrong_answers_are_grouped_and_all_are_counted():
    base, candidate = paired(10, 0, 0, 4)
    candidate[-1] = row(13, candidate[-1]["gold"], "no idea", "candidate")
    candidate[-2] = row(12, candidate[-2]["gold"], "bug", "candidate", status="truncated")
    outcome, shown_rows = evaluation_and_rows(predictions=[*base, *candidate])
    groups = outcome.wrong_answers
    assert sum(g.count for g in groups) == 4
    answers = {(g.gold, g.predicted): [shown_rows.tested[i].candidate for i in g.examples] for g in groups}
    assert answers["billing", "invalid"] == ["no idea"]
    assert answers["bug", "invalid"] == ["bug (cut at the token limit)"]


def test_models_with_other_rows_are_not_compared():
    with pytest.raises(
        ValueError, match="do not cover the same examples: 200 base rows, 199 candidate rows, 199 of the same"
    ):
        evaluation(
            predictions=[
                r for r in arguments()["predictions"] if (r["model"], r["example_id"]) != ("candidate", "e0007")
            ]
        )
