"""Calibration against scikit-learn and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from finetune_pipeline.evaluation.calibration import calibration, probabilities
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row


def rows(seed: int, sharpness: float, n: int = 4000) -> list[dict]:
    """Gold labels drawn from known probabilities; the model's are those, raised to a power."""
    random = np.random.default_rng(seed)
    true = random.dirichlet([0.5, 0.5, 0.5], n)
    gold = [random.choice(3, p=p) for p in true]
    return [
        row(i, LABELS[g], "bug", label_scores=(sharpness * np.log(np.maximum(p, 1e-12)) - 7).tolist())
        for i, (p, g) in enumerate(zip(true, gold, strict=True))
    ]


def test_brier_and_log_loss_equal_scikit_learn() -> None:
    given = rows(0, 1.0, 300)
    told = calibration(given, LABELS)
    shares = np.array([probabilities(r["label_scores"]) for r in given])
    gold = [LABELS.index(r["gold"]) for r in given]
    assert told is not None and told["n"] == 300
    assert told["brier"] == pytest.approx(brier_score_loss(gold, shares, labels=[0, 1, 2], scale_by_half=False))
    assert told["log_loss"] == pytest.approx(log_loss(gold, shares, labels=[0, 1, 2]))


def test_reliability_bins_equal_scikit_learn() -> None:
    given = rows(1, 1.5, 500)
    told = calibration(given, LABELS)
    shares = np.array([probabilities(r["label_scores"]) for r in given])
    right = [LABELS[p.argmax()] == r["gold"] for p, r in zip(shares, given, strict=True)]
    expected = calibration_curve(right, shares.max(axis=1), n_bins=10)
    assert told is not None
    assert [b["accuracy"] for b in told["reliability"]] == pytest.approx(list(expected[0]))
    assert [b["confidence"] for b in told["reliability"]] == pytest.approx(list(expected[1]))


def test_the_error_is_small_for_an_honest_model_and_large_for_a_sure_one() -> None:
    honest, sure = (calibration(rows(2, s), LABELS) for s in (1.0, 4.0))
    assert honest is not None and sure is not None
    assert honest["ece"] < 0.03 and sure["ece"] > 0.1
    assert sure["confidence"] > sure["accuracy"] + 0.1 and sure["brier"] > honest["brier"]


def test_by_hand() -> None:
    given = [
        row(1, "bug", "bug", label_scores=[math.log(0.8), math.log(0.1), math.log(0.1)]),
        row(2, "other", "bug", label_scores=[math.log(0.6), math.log(0.2), math.log(0.2)]),
        row(3, "bug", "bug", label_scores=[]),
        row(4, "bug", "bug", label_scores=[math.nan, 0.0, 0.0]),
    ]
    told = calibration(given, LABELS)
    assert told is not None and (told["n"], told["accuracy"]) == (2, 0.5)
    assert told["confidence"] == pytest.approx(0.7)
    assert told["ece"] == pytest.approx((0.2 + 0.6) / 2)
    assert told["brier"] == pytest.approx((0.04 + 0.01 + 0.01 + 0.36 + 0.04 + 0.64) / 2)


def test_it_stands_among_the_scores_of_labels_and_is_null_without_likelihoods() -> None:
    assert score(rows(3, 1.0, 50), LABELS)["calibration"]["n"] == 50
    assert score([row(1, "bug", "bug", label_scores=[])], LABELS)["calibration"] is None
