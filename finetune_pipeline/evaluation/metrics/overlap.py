"""Word and character overlap of generated texts with their references: what ROUGE, chrF and BLEU share.

Overlap prefers a wrong answer with one changed number to a right one in other words: a floor to notice collapse by,
not proof of quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from finetune_pipeline.evaluation.correctness import scored_text
from finetune_pipeline.evaluation.metrics.base import Row, RowMetric
from finetune_pipeline.spec.outputs import AnyOutput

ROUGE = ("rouge1", "rouge2", "rougeLsum")


class Overlap(RowMetric):
    """The mean overlap of texts with their references, each between 0 and 1."""

    kinds = ("text",)

    def row_score(self, row: Row, output: AnyOutput) -> float:
        return self.overlap(scored_text(row), str(row["gold"]))

    def overlap(self, prediction: str, reference: str) -> float:
        """Score one text: by default the ROUGE F-measure of this name, words stemmed (Lin 2004)."""
        return _rouge_scores(prediction, reference)[self.name]


class SacreBleu(Overlap):
    """An overlap as sacrebleu computes it, over 100."""

    def overlap(self, prediction: str, reference: str) -> float:
        return float(sacrebleu_metric(self.name, False).sentence_score(prediction, [reference]).score) / 100


@lru_cache(maxsize=1)
def _rouge_scorer() -> Any:
    from rouge_score import rouge_scorer  # imports nltk, a second that label tasks need not wait for

    return rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)


@lru_cache(maxsize=20_000)
def _rouge_scores(prediction: str, reference: str) -> dict[str, float]:
    """All three at once: the texts are split and stemmed once, and compared with several other models."""
    return {name: float(score.fmeasure) for name, score in _rouge_scorer().score(reference, prediction).items()}


@lru_cache(maxsize=4)
def sacrebleu_metric(name: str, of_corpus: bool) -> Any:
    """Return sacrebleu's own chrF or BLEU. A sentence has too few 4-grams for BLEU as it stands: only orders that occur
    count there."""
    from sacrebleu.metrics import BLEU, CHRF

    return CHRF() if name == "chrf" else BLEU(effective_order=not of_corpus)


def corpus_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU (0 to 1) over all texts at once."""
    return {
        name: float(sacrebleu_metric(name, True).corpus_score(list(predictions), [list(references)]).score) / 100
        for name in ("bleu", "chrf")
    }
