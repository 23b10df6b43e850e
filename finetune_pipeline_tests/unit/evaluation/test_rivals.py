"""Rivals: which answers of the base decide, which rival is the strongest, and which rows two models share."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.evaluation.rivals import base_at_its_best, same_rows, simple_rows, strongest_rival
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row, spec


def answers(right: int, n: int = 40) -> list[dict[str, Any]]:
    """Rows of which the first `right` are right."""
    gold = [LABELS[i % 3] for i in range(n)]
    return [row(i, g, g if i < right else LABELS[(i + 1) % 3], label_scores=[]) for i, g in enumerate(gold)]


def test_the_strongest_rival_is_the_one_with_the_highest_score_whatever_its_name_or_place() -> None:
    rows = {"zero_shot": answers(10), "8_shot": answers(30), "simple_commonest": answers(13)}
    rival = strongest_rival(spec(), rows)
    assert (rival.title, rival.value) == ("the base model, 8-shot", 0.75)
    assert [r["example_id"] for r in rival.rows] == sorted(r["example_id"] for r in rows["8_shot"])
    assert strongest_rival(spec(), {**rows, "simple_linear": answers(31)}).title == "TF-IDF and logistic regression"
    assert strongest_rival(spec(), {**rows, "simple_linear": answers(29)}).title == "the base model, 8-shot"


def test_two_models_are_compared_on_the_rows_both_answered_in_one_order() -> None:
    first, second = answers(5, n=6), answers(3, n=6)
    a, b = same_rows(first[1:], list(reversed(second[:5])))
    assert [r["example_id"] for r in a] == [r["example_id"] for r in b] == [r["example_id"] for r in first[1:5]]
    assert a == first[1:5] and b == second[1:5]


def test_simple_models_that_did_not_answer_are_no_rivals() -> None:
    assert list(simple_rows({"simple_linear": answers(3), "base": answers(1)})) == ["linear"]


def test_labels_without_likelihoods_have_no_restricted_answers() -> None:
    best = base_at_its_best({"base": answers(20)}, spec().output)
    assert best.mode == "free" and list(best.answers) == ["free"] and best.valid_share == 1.0
