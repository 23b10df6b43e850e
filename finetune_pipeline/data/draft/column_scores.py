"""Scores the columns that may hold labels: how well a linear model predicts each from the text, on rows that it has not seen."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import KEY, SAMPLE, Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import EXPRESSION_ERRORS, compile_expression
from finetune_pipeline.data.quality.linear_model import features, predicted

PREDICTABLE = 0.1
"""The inputs predict a column from this share of what the commonest value leaves to be gained."""
_LEAST = 20
_DECLARED = ("label", "labels", "intent", "target", "gold", "y")
"""Names by which people declare the answer."""


@dataclass(frozen=True)
class ColumnScore:
    """A column's score.

    Attributes:
        accuracy: Of the linear model, on held-out rows.
        commonest: Share of the commonest value.
        rows: Held-out rows.
    """

    path: str
    accuracy: float
    commonest: float
    rows: int

    @property
    def gain(self) -> float:
        """0: as always answering the commonest value; 1: always right."""
        return (self.accuracy - self.commonest) / max(1e-9, 1 - self.commonest)

    @property
    def is_learnable(self) -> bool:
        """Whether the texts predict the column: clearly, and by more than three standard errors."""
        error = (max(self.commonest * (1 - self.commonest), 1 / self.rows) / self.rows) ** 0.5
        return self.gain > PREDICTABLE and self.accuracy - self.commonest > 3 * error


class ColumnScorer:
    """Scores columns on at most 2,000 rows of one text."""

    def __init__(self, rows: Sequence[RawRow], text: str) -> None:
        """text: JMESPath expression of the user's text."""
        self._rows, self._read_text = rows[:: max(1, len(rows) // SAMPLE)], compile_expression(text)[0]
        self._scores: dict[str, ColumnScore | None] = {}

    def score(self, column: Column) -> ColumnScore | None:
        """Score a column; None with fewer than 20 rows that have it and a text."""
        if column.path not in self._scores:
            self._scores[column.path] = self._score(column.path)
        return self._scores[column.path]

    def gain(self, column: Column) -> float:
        """The score's gain; 0 if there is none."""
        return score.gain if (score := self.score(column)) else 0.0

    @cached_property
    def _samples(self) -> tuple[Any, list[dict[str, object]]]:
        """The texts' features, and the values of every column beside each text."""
        texts, values = [], []
        for row in self._rows:
            with suppress(*EXPRESSION_ERRORS):  # the check reports the row
                text = self._read_text(row.value, "", row.key)
                if text is not None:
                    texts.append(as_text(text))
                    values.append({path: value for path, _, value in leaves(row.value)} | {KEY: row.key})
        return features(texts) if texts else None, values

    def _score(self, path: str) -> ColumnScore | None:
        matrix, values = self._samples
        filled = np.array([v.get(path) is not None for v in values], bool)
        if filled.sum() < _LEAST:
            return None
        held_out = np.random.default_rng(0).random(len(values)) < 1 / 3  # at random: labels may alternate
        fit, test = filled & ~held_out, filled & held_out
        classes, targets = np.unique([as_text(v.get(path)) for v in values], return_inverse=True)
        predictions = predicted(matrix[fit], targets[fit], matrix[test], len(classes)).argmax(axis=1)
        accuracy, commonest = (predictions == targets[test]).mean(), np.bincount(targets[filled]).max() / filled.sum()
        return ColumnScore(path, float(accuracy), float(commonest), int(test.sum()))


def best_first(labels: Sequence[Column], scorer: ColumnScorer) -> list[Column]:
    """Order columns of labels: first those that the texts predict, the best of them first, unless one is named `label` or the
    like. Columns with about the same score keep their order."""

    def order(column: Column) -> tuple[bool, bool, float]:
        score = scorer.score(column)
        is_learnable = score is not None and score.is_learnable
        is_named = names.rank(column.name, _DECLARED) is not None
        return not is_learnable, not is_named, -round(scorer.gain(column), 1) if is_learnable else 0.0

    return sorted(labels, key=order)
