"""TF-IDF and logistic regression, trained in seconds on the same rows: what any fine-tuned model is seen beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

GRID = (1.0, 10.0, 100.0)
"""Inverse regularisation strengths tried, weakest model first."""
WORD = r"(?u)\b\w+\b"
"""Words of one character count too: `P0`, `5 s`, `I` tell tickets apart."""


def _pipeline(c: float) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer  # slow to import, so only where it is used
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD),
        LogisticRegression(C=c, max_iter=1000),
    )


def tfidf_logistic(
    train_texts: Sequence[str],
    train_labels: Sequence[str],
    test_texts: Sequence[str],
    seed: int = 0,
    strength: float | None = None,
) -> list[str]:
    """Labels of `test_texts` by logistic regression on word 1- and 2-gram TF-IDF (sublinear).

    Regularisation is chosen by 5-fold stratified cross-validation on the training rows alone (fewer folds when the
    rarest label has fewer rows; C=10 when it has a single one), unless `strength` is
    C itself. Deterministic for a seed. Raises ValueError when texts
    and labels do not match, there are no training rows, or no training text holds a word.
    """
    if len(train_texts) != len(train_labels) or not train_texts:
        raise ValueError(f"{len(train_texts)} training texts and {len(train_labels)} labels: need as many, and some")
    if not test_texts:
        return []
    if len(set(train_labels)) == 1:
        return [train_labels[0]] * len(test_texts)
    folds = min(5, *Counter(train_labels).values())
    model = _pipeline(strength or 10.0)
    if folds > 1 and strength is None:
        from sklearn.model_selection import GridSearchCV, StratifiedKFold

        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        model = GridSearchCV(model, {"logisticregression__C": list(GRID)}, cv=splits, scoring="accuracy")
    model.fit(list(train_texts), list(train_labels))
    return [str(label) for label in model.predict(list(test_texts))]
