"""ROUGE through `evaluate`, with no way to a network."""

from __future__ import annotations

import socket

import evaluate
import pytest
from finetune_pipeline.evaluation.overlap_metrics import ExactMatch, Rouge, text_scores

from finetune_pipeline.evaluation.metrics.overlap import exact_match, rouge_scores


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something tried to open a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_combined_metrics_without_a_network(no_network):
    combined = evaluate.combine([Rouge(), ExactMatch()])
    scores = combined.compute(predictions=["a small cat", "no"], references=["a small dog", "no"])
    assert scores["rouge1"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["rouge2"] == pytest.approx((1 / 2 + 0) / 2)
    assert scores["exact_match"] == 0.5


def test_text_scores_are_the_means_of_the_per_example_scores(no_network):
    pairs = [("it was refunded yesterday", "refunded on monday"), ("late parcels", "the parcel is late"), ("x", "y")]
    predictions, references = zip(*pairs, strict=True)
    scores = text_scores(predictions, references)
    for name in ("rouge1", "rouge2", "rougeLsum"):
        assert scores[name] == pytest.approx(sum(rouge_scores(p, r)[name] for p, r in pairs) / 3)


def test_rouge_cannot_see_a_wrong_number():
    """The reason it is no gate for quality: a wrong figure scores higher than a right paraphrase."""
    reference = "The refund was approved and will arrive within five days."
    wrong = rouge_scores("The refund was approved and will arrive within nine days.", reference)["rougeLsum"]
    right = rouge_scores("Money is on its way back, expect it in five days.", reference)["rougeLsum"]
    assert wrong > 0.85 > right


def test_exact_match_strips_and_nothing_more():
    assert exact_match(" yes\n", "yes") == 1.0
    assert exact_match("Yes", "yes") == 0.0


def test_nothing_to_score_is_an_error():
    with pytest.raises(ValueError, match="no predictions"):
        text_scores([], [])
