"""Answers are read strictly, and what is no answer is never turned into one."""

from __future__ import annotations

import math

import pytest

from finetune_pipeline.evaluation.answers import answer_of, likelihood_label, likelihood_rows, parse_answer
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row


@pytest.mark.parametrize("text", ["bug", " bug\n", "\tbug "])
def test_exact_after_strip(text):
    assert parse_answer(text, LABELS) == "bug"


@pytest.mark.parametrize("text", ["Bug", "bug.", '"bug"', "bug billing", "Label: bug", "", "refund", "bug\nas", "bu"])
def test_anything_else_is_invalid(text):
    assert parse_answer(text, LABELS) is None


@pytest.mark.parametrize("status", ["truncated", "empty", "error"])
def test_an_answer_that_was_not_finished_is_invalid_even_if_it_reads_right(status):
    assert answer_of(row(1, "bug", "bug", status=status), LABELS) is None
    assert answer_of(row(1, "bug", "bug"), LABELS) == "bug"


def test_likelihood_takes_the_largest_score():
    assert likelihood_label([-3.0, -0.5, -0.6], LABELS) == "billing"
    assert likelihood_label([-1.0, -1.0, -2.0], LABELS) == "bug"
    assert likelihood_label([-math.inf, -math.inf, -9.0], LABELS) == "other"


@pytest.mark.parametrize("scores", [[], [math.nan, -1.0, -2.0], [-1.0, -2.0, math.nan], [-math.inf] * 3])
def test_no_usable_scores_no_label(scores):
    assert likelihood_label(scores, LABELS) is None


def test_wrong_number_of_scores_is_an_error():
    with pytest.raises(ValueError, match="2 label scores for 3 labels"):
        likelihood_label([-1.0, -2.0], LABELS)


def test_likelihood_rows_answer_by_score_and_keep_failures():
    given = [
        row(1, "bug", "I think bug", label_scores=[-0.1, -2.0, -3.0]),
        row(2, "bug", "bug", label_scores=[]),
        row(3, "bug", "", status="error", error="out of memory"),
    ]
    answered = likelihood_rows(given, LABELS)
    assert [(r["text"], r["status"]) for r in answered] == [("bug", "ok"), ("", "empty"), ("", "error")]
    assert given[0]["text"] == "I think bug"
