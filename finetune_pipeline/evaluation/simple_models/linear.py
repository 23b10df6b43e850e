"""TF-IDF with logistic regression."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.features import check_rows, constant, features
from finetune_pipeline.spec.outputs import AnyOutput

REGULARISATION = (1.0, 10.0, 100.0)
"""Inverse regularisation strengths (scikit-learn's C) that are tried, strongest regularisation first."""
TUNING_ROWS, TUNING_FOLDS = 2_000, 3
"""Maximum training rows and folds of the cross-validation that chooses the strength."""


@register
class TfidfLogistic(SimpleModel):
    """TF-IDF with logistic regression."""

    name, title, kinds, rank = "linear", "TF-IDF and logistic regression", ("labels",), 40

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        self.pipelines, self.has_probabilities = {"model": linear_pipeline(texts, answers, seed)}, True
        return self


def linear_pipeline(texts: Sequence[str], labels: Sequence[str], seed: int = 0, strength: float | None = None) -> Any:
    """Logistic regression on TF-IDF of word 1- and 2-grams and of character 3- to 5-grams within words, fitted.

    strength: scikit-learn's C; None chooses it from REGULARISATION by cross-validation on the training rows, with folds
    shuffled by `seed`. If all rows have one label, it always predicts that.

    Raises:
        ValueError: Texts and labels differ in number, there are none, or no text has features.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline

    if len(set(labels)) == 1:
        return constant(texts, labels)
    check_rows(texts, labels)
    if strength is None:
        few_texts, few_labels = texts, labels
        if len(texts) > TUNING_ROWS:
            chosen = range(0, len(texts), -(-len(texts) // TUNING_ROWS))
            few_texts, few_labels = [texts[i] for i in chosen], [labels[i] for i in chosen]
        folds = min(TUNING_FOLDS, *Counter(few_labels).values())
        strength = REGULARISATION[1]
        if folds > 1 and len(set(few_labels)) > 1:
            splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
            # vectorized once for all folds: a fold's own idf would not change which strength wins
            search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": list(REGULARISATION)}, cv=splits)
            strength = search.fit(features().fit_transform(list(few_texts)), list(few_labels)).best_params_["C"]
    pipeline = make_pipeline(features(), LogisticRegression(C=strength, max_iter=1000))
    return pipeline.fit(list(texts), list(labels))
