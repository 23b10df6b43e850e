"""The linear baseline learns what words tell, and only from the training rows."""

from __future__ import annotations

import pytest

from finetune_pipeline.evaluation.linear_baseline import tfidf_logistic

TRAIN = [(f"the app crashes on screen {i}", "bug") for i in range(12)]
TRAIN += [(f"invoice {i} was charged twice", "billing") for i in range(12)]
TRAIN += [(f"please add dark mode {i}", "feature") for i in range(3)]
TEXTS, ANSWERS = [t for t, _ in TRAIN], [a for _, a in TRAIN]


def test_learns_words_and_repeats_itself():
    test = ["it crashes when the screen opens", "charged twice again", "add a mode please"]
    assert tfidf_logistic(TEXTS, ANSWERS, test, 3) == ["bug", "billing", "feature"]
    assert tfidf_logistic(TEXTS, ANSWERS, test, 3) == tfidf_logistic(TEXTS, ANSWERS, test, 3)


def test_order_of_words_counts_through_bigrams():
    train = ["not good"] * 6 + ["good not bad"] * 6
    assert tfidf_logistic(train, ["no"] * 6 + ["yes"] * 6, ["not good", "good not"], 0) == ["no", "yes"]


def test_a_label_with_a_single_row_is_no_obstacle():
    assert tfidf_logistic([*TEXTS, "hello there"], [*ANSWERS, "greeting"], ["invoice charged"], 0) == ["billing"]


def test_one_label_only():
    assert tfidf_logistic(["a", "b"], ["x", "x"], ["c", "d", "e"], 0) == ["x", "x", "x"]


def test_nothing_to_predict():
    assert tfidf_logistic(TEXTS, ANSWERS, [], 0) == []


@pytest.mark.parametrize(("texts", "labels"), [([], []), (["a"], ["x", "y"])])
def test_refuses_what_does_not_match(texts, labels):
    with pytest.raises(ValueError, match="need as many, and some"):
        tfidf_logistic(texts, labels, ["t"], 0)
