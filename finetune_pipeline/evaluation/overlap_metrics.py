"""ROUGE, BLEU, chrF and exact match as `evaluate` metrics that never reach for a hub.

``evaluate.load("rouge")`` downloads a script even though the scorer is installed; these classes are instantiated
instead: ``evaluate.combine([Rouge(), ExactMatch()])``. Importing `evaluate` imports torch where it is installed, so
this module is imported only while a text task is scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import evaluate

from finetune_pipeline.evaluation.overlap import ROUGE_NAMES, corpus_scores, exact_match, rouge_scores


def _info(description: str) -> evaluate.MetricInfo:
    text = datasets.Value("string")
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description="predictions and references: lists of strings of equal length",
        features=datasets.Features({"predictions": text, "references": text}),
    )


class Rouge(evaluate.Metric):
    """Mean ROUGE-1, ROUGE-2 and ROUGE-Lsum F-measures over all pairs."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("ROUGE F-measures, words stemmed")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        scores = [rouge_scores(p, r) for p, r in zip(predictions, references, strict=True)]
        return {name: sum(s[name] for s in scores) / len(scores) for name in ROUGE_NAMES}


class ExactMatch(evaluate.Metric):
    """Share of predictions equal to their reference once stripped."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("share of exact matches")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        matches = [exact_match(p, r) for p, r in zip(predictions, references, strict=True)]
        return {"exact_match": sum(matches) / len(matches)}


class Bleu(evaluate.Metric):
    """Corpus BLEU, from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("corpus BLEU by sacrebleu, over 100")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"bleu": corpus_scores(predictions, references)["bleu"]}


class ChrF(evaluate.Metric):
    """Corpus chrF, from 0 to 1."""

    def _info(self) -> evaluate.MetricInfo:
        return _info("corpus chrF by sacrebleu, over 100")

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        return {"chrf": corpus_scores(predictions, references)["chrf"]}


def text_scores(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """rouge1, rouge2, rougeLsum, exact_match and the corpus scores bleu and chrf over all pairs.

    Raises ValueError when there is none.
    """
    if not predictions:
        raise ValueError("no predictions to score")
    combined = evaluate.combine([metric(keep_in_memory=True) for metric in (Rouge, ExactMatch, Bleu, ChrF)])
    result = combined.compute(predictions=list(predictions), references=list(references))
    return {name: float(value) for name, value in result.items()}
