"""Word and character overlap of generated texts with their references. Light: the `evaluate` metrics are in
overlap_metrics.py.

Overlap prefers a wrong answer with one changed number to a right one in other words: a floor to notice collapse by,
not proof of quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

ROUGE_NAMES = ("rouge1", "rouge2", "rougeLsum")
OVERLAP_NAMES = (*ROUGE_NAMES, "chrf", "bleu")


@lru_cache(maxsize=1)
def _rouge() -> Any:
    from rouge_score import rouge_scorer  # imports nltk, a second that label tasks need not wait for

    return rouge_scorer.RougeScorer(list(ROUGE_NAMES), use_stemmer=True)


@lru_cache(maxsize=4)
def _sacrebleu(name: str, of_corpus: bool) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    # a sentence has too few 4-grams for BLEU as it stands: only orders that occur count there
    return CHRF() if name == "chrf" else BLEU(effective_order=not of_corpus)


def rouge_scores(prediction: str, reference: str) -> dict[str, float]:
    """F-measures (0 to 1) of one prediction: rouge1, rouge2, rougeLsum (Lin 2004), words stemmed."""
    return {name: float(score.fmeasure) for name, score in _rouge().score(reference, prediction).items()}


def sentence_scores(prediction: str, reference: str, names: Sequence[str] = OVERLAP_NAMES) -> dict[str, float]:
    """The named overlap scores of one prediction, all from 0 to 1: ROUGE as above, chrF (Popovic 2015) and smoothed
    sentence BLEU (Papineni et al. 2002) as sacrebleu computes them, over 100."""
    found = rouge_scores(prediction, reference) if set(names) & set(ROUGE_NAMES) else {}
    for name in ("chrf", "bleu"):
        if name in names:
            found[name] = float(_sacrebleu(name, False).sentence_score(prediction, [reference]).score) / 100
    return {name: found[name] for name in names}


def corpus_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrf and bleu (0 to 1) over all texts at once, as sacrebleu computes them, over 100."""
    return {
        name: float(_sacrebleu(name, True).corpus_score(list(predictions), [list(references)]).score) / 100
        for name in ("chrf", "bleu")
    }


def exact_match(prediction: str, reference: str) -> float:
    """1.0 when both texts are equal once surrounding blanks are stripped, else 0.0."""
    return float(prediction.strip() == reference.strip())
