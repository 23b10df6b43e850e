"""Shots and baseline scores."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import pytest

from finetune_pipeline.evaluation.prompts import build_shots
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, json_spec, row, rows, spec

TRAIN = [SimpleNamespace(id=f"{label}{i}", label=label) for label in LABELS for i in range(20)]
LABEL_OF = {e.id: e.label for e in TRAIN}


def test_shots_are_spread_over_the_labels():
    for k in (3, 7, 8, 30):
        counts = Counter(LABEL_OF[i] for i in build_shots(TRAIN, k, LABELS, 0))
        assert sum(counts.values()) == k
        assert max(counts.values()) - min(counts.values()) <= 1


def test_shots_do_not_depend_on_the_order_of_rows_but_on_the_seed():
    assert build_shots(TRAIN, 9, LABELS, 1) == build_shots(TRAIN[::-1], 9, LABELS, 1)
    assert build_shots(TRAIN, 9, LABELS, 1) != build_shots(TRAIN, 9, LABELS, 2)


def test_a_rare_label_is_made_up_for():
    few = [e for e in TRAIN if e.label != "bug" or e.id == "bug0"]
    chosen = build_shots(few, 9, LABELS, 0)
    assert Counter(LABEL_OF[i] for i in chosen) == {"bug": 1, "billing": 4, "other": 4}
    assert len(set(chosen)) == 9


def test_shots_of_a_text_task_need_no_labels():
    unlabelled = [SimpleNamespace(id=e.id, label=None) for e in TRAIN]
    assert len(set(build_shots(unlabelled, 8, [], 0))) == 8


def test_too_few_examples_are_an_error():
    with pytest.raises(ValueError, match="61 shots asked for, but only 60"):
        build_shots(TRAIN, 61, LABELS, 0)
    assert build_shots(TRAIN, 0, LABELS, 0) == []


def test_scores_of_prompts():
    zero = [row(i, "bug", "bug" if i < 2 else "It is a bug", label_scores=[-0.1, -1.0, -1.0]) for i in range(10)]
    eight = rows([("bug", "bug")] * 7 + [("bug", "other")] * 3)
    facts = score_baselines(spec(), {"zero_shot": zero, "8_shot": eight})
    assert (facts["best"], facts["best_mode"], facts["best_restricted"]) == ("8_shot", "free", "zero_shot")
    assert facts["n"] == 10
    first = facts["prompts"]["zero_shot"]
    assert (first["accuracy"], first["valid_share"], first["restricted"]["accuracy"]) == (0.2, 0.2, 1.0)
    assert facts["prompts"]["8_shot"]["macro_f1"] == pytest.approx(14 / 17)


def test_ties_go_to_the_first_prompt():
    same = rows([("bug", "bug"), ("bug", "other")])
    assert score_baselines(spec(), {"zero_shot": same, "8_shot": same})["best"] == "zero_shot"


def test_prompts_must_cover_the_same_rows():
    with pytest.raises(ValueError, match="other examples than zero_shot: 8_shot"):
        score_baselines(spec(), {"zero_shot": rows([("bug", "bug")] * 2), "8_shot": rows([("bug", "bug")])})
    with pytest.raises(ValueError, match="no baseline predictions"):
        score_baselines(spec(), {"zero_shot": []})


def test_where_no_prompt_keeps_the_form_the_best_restricted_answers_are_the_ones_to_beat():
    def spoken(right: int) -> list[dict]:
        scores = [[-0.1, -3.0, -3.0] if i < right else [-3.0, -0.1, -3.0] for i in range(10)]
        return [row(i, "bug", "bug" if i < 7 else "I think it is a bug", label_scores=scores[i]) for i in range(10)]

    facts = score_baselines(spec(), {"zero_shot": spoken(4), "8_shot": spoken(9)})
    assert (facts["best"], facts["best_mode"]) == ("8_shot", "restricted"), "7 of 10 in form is no rival by itself"


def test_restricted_json_answers_and_simple_models_stand_beside_the_prompts():
    gold = '{"city": "Rome", "guests": 2}'
    free = [row(i, gold, "Rome, two guests", label_scores=[]) for i in range(10)]
    under_schema = [row(i, gold, gold if i < 6 else gold.replace("2", "3"), label_scores=[]) for i in range(10)]
    simple = [row(i, gold, gold if i < 3 else "{}", label_scores=[]) for i in range(20)]
    facts = score_baselines(
        json_spec(), {"zero_shot": free, "zero_shot_restricted": under_schema, "simple_nearest": simple}
    )
    assert list(facts["prompts"]) == ["zero_shot"] and facts["best_mode"] == "restricted"
    assert facts["prompts"]["zero_shot"]["restricted"]["accuracy"] == 0.6
    assert facts["simple"]["nearest"]["correct"] == 3 and facts["simple"]["nearest"]["n"] == 20
