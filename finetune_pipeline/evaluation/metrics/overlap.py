"""Shared by ROUGE, chrF and BLEU: overlap of generated texts with their references.

Overlap prefers a wrong answer with one changed number to a right one in other words. It can reveal a collapse, but proves no
quality.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from finetune_pipeline.evaluation.correctness import Row, scored_text
from finetune_pipeline.evaluation.metrics.base import RowMetric
from finetune_pipeline.spec.outputs import AnyOutput

ROUGE = ("rouge1", "rouge2", "rougeLsum")
_ROUGE_WORD = re.compile("[a-z0-9]+")


class Overlap(RowMetric):
    """The mean overlap of texts with their references, each between 0 and 1. Other overlaps than ROUGE override :meth:`overlap`."""

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
    from rouge_score import rouge_scorer  # imports nltk, which takes a second that label tasks should not pay

    return rouge_scorer.RougeScorer(list(ROUGE), use_stemmer=True)


@lru_cache(maxsize=20_000)
def _rouge_scores(prediction: str, reference: str) -> dict[str, float]:
    """All three ROUGE scores, cached: texts are stemmed once, though several comparisons use them. Of equal and of empty texts they
    are known without the search for common words, whose time grows with the square of the length."""
    words = _ROUGE_WORD.findall(prediction.lower())
    if not words or (prediction == reference and len(words) > 1):
        return dict.fromkeys(ROUGE, float(len(words) > 1))
    return {name: float(score.fmeasure) for name, score in _rouge_scorer().score(reference, prediction).items()}


@lru_cache(maxsize=4)
def sacrebleu_metric(name: str, of_corpus: bool) -> Any:
    """Return sacrebleu's own chrF or BLEU. For sentences, which often lack 4-grams, BLEU counts only the orders that occur."""
    from sacrebleu.metrics import BLEU, CHRF

    return CHRF() if name == "chrf" else BLEU(effective_order=not of_corpus)


def corpus_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """chrF and BLEU (0 to 1) over all texts at once, as local `evaluate` metrics: ``evaluate.load("bleu")`` fetches a script
    from the Hub. `evaluate` is imported late, because it imports torch."""
    import datasets
    import evaluate

    text = datasets.Value("string")
    features = datasets.Features({"predictions": text, "references": text})

    class Corpus(evaluate.Metric):  # type: ignore[misc]
        """One of sacrebleu's scores; `config_name` says which."""

        def _info(self) -> evaluate.MetricInfo:
            name = f"{self.config_name} of a corpus, by sacrebleu"
            return evaluate.MetricInfo(description=name, citation="", inputs_description="texts", features=features)

        def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
            scorer = sacrebleu_metric(self.config_name, True)
            return {self.config_name: float(scorer.corpus_score(list(predictions), [list(references)]).score) / 100}

    combined = evaluate.combine([Corpus(config_name=name, keep_in_memory=True) for name in ("bleu", "chrf")])
    return dict(combined.compute(predictions=list(predictions), references=list(references)))
