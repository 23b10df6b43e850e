"""Scores against scikit-learn, and the treatment of answers outside the set."""

from __future__ import annotations

import random

import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from finetune_pipeline.evaluation.metrics import label_metrics, likelihood_metrics, score, valid_share
from finetune_pipeline_tests.unit.evaluation.rows import LABELS, row, rows


def _many(seed: int = 0, n: int = 150) -> list[tuple[str, str]]:
    chance = random.Random(seed)
    said = [*LABELS, "I am not sure"]
    return [(gold := chance.choice(LABELS), gold if chance.random() < 0.6 else chance.choice(said)) for _ in range(n)]


def test_equals_scikit_learn():
    pairs = _many()
    gold, said = [g for g, _ in pairs], [s if s in LABELS else "invalid" for _, s in pairs]
    scores = label_metrics(rows(pairs), LABELS)
    assert scores["accuracy"] == pytest.approx(accuracy_score(gold, said))
    assert scores["macro_f1"] == pytest.approx(f1_score(gold, said, labels=LABELS, average="macro"))
    assert scores["weighted_f1"] == pytest.approx(f1_score(gold, said, labels=LABELS, average="weighted"))
    assert scores["confusion"]["counts"] == confusion_matrix(gold, said, labels=[*LABELS, "invalid"])[:3].tolist()
    assert scores["confusion"]["columns"] == [*LABELS, "invalid"]
    expected = precision_recall_fscore_support(gold, said, labels=LABELS)
    for i, label in enumerate(LABELS):
        found = scores["per_class"][label]
        assert [found[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx([e[i] for e in expected])


def test_invalid_answers_are_wrong_and_counted_apart():
    given = [row(1, "bug", "bug"), row(2, "bug", "BUG"), row(3, "bug", "bug", status="truncated")]
    scores = label_metrics(given, LABELS)
    assert (scores["correct"], scores["n"], scores["valid"]["valid"]) == (1, 3, 1)
    assert scores["confusion"]["counts"][0] == [1, 0, 0, 2]
    assert scores["statuses"] == {"ok": 2, "truncated": 1, "empty": 0, "error": 0}


def test_labels_without_gold_rows_do_not_drag_macro_f1_and_are_named():
    scores = label_metrics(rows([("bug", "bug"), ("billing", "billing")]), LABELS)
    assert scores["macro_f1"] == 1.0
    assert scores["absent_labels"] == ["other"]
    assert scores["per_class"]["other"] == {"precision": None, "recall": None, "f1": 0.0, "support": 0, "predicted": 0}


def test_gold_outside_the_set_is_an_error():
    with pytest.raises(ValueError, match="'refund'"):
        label_metrics(rows([("refund", "bug")]), LABELS)


def test_no_rows_no_numbers():
    scores = label_metrics([], LABELS)
    assert (scores["n"], scores["accuracy"], scores["macro_f1"], scores["interval"]) == (0, None, None, [0.0, 1.0])


def test_likelihood_is_scored_apart_from_text():
    given = [
        row(1, "bug", "It is a bug", label_scores=[-0.1, -2.0, -3.0]),
        row(2, "other", "other", label_scores=[-0.1, -2.0, -3.0]),
    ]
    assert label_metrics(given, LABELS)["correct"] == 1
    likely = likelihood_metrics(given, LABELS)
    assert (likely["correct"], likely["valid"]["share"]) == (1, 1.0)
    assert likelihood_metrics([row(1, "bug", "bug", label_scores=[])], LABELS) is None


def test_text_scores():
    given = [
        row(1, "The parcel arrived late", "The parcel arrived late"),
        row(2, "red green", "red blue"),
        row(3, "a", "", status="error"),
        row(4, "a b", "a b c", status="truncated"),
    ]
    scores = score(given, [])
    assert (scores["n"], scores["correct"], scores["accuracy"]) == (4, 1, 0.25)
    assert scores["rougeLsum"] == pytest.approx((1 + 0.5 + 0 + 0.8) / 4)
    assert scores["rouge2"] == pytest.approx((1 + 0 + 0 + 2 / 3) / 4)
    assert scores["valid"]["valid"] == 2
    low, high = scores["rougeLsum_interval"]
    assert low < scores["rougeLsum"] < high


def test_valid_share_has_a_wilson_interval():
    valid = valid_share(rows([("bug", "bug")] * 100), LABELS)
    assert valid["share"] == 1.0
    assert valid["interval"][0] == pytest.approx(0.963, abs=5e-4)
