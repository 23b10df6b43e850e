"""Word overlap of one generated text with its reference. Light: the `evaluate` metrics around it are in rouge.py.

Overlap prefers a wrong answer with one changed number to a right one in other words: a floor to notice collapse by,
not proof of quality.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

ROUGE_NAMES = ("rouge1", "rouge2", "rougeLsum")


@lru_cache(maxsize=1)
def _scorer() -> Any:
    from rouge_score import rouge_scorer  # imports nltk, a second that label tasks need not wait for

    return rouge_scorer.RougeScorer(list(ROUGE_NAMES), use_stemmer=True)


def rouge_scores(prediction: str, reference: str) -> dict[str, float]:
    """F-measures (0 to 1) of one prediction: rouge1, rouge2, rougeLsum (Lin 2004), words stemmed."""
    return {name: float(score.fmeasure) for name, score in _scorer().score(reference, prediction).items()}


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both texts are equal once surrounding blanks are stripped, else 0.0."""
    return float(prediction.strip() == reference.strip())
