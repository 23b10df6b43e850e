"""What more rows would bring: a learning curve measured on growing parts of the training data, and carried on.

The curve is that of the linear baseline, which trains in seconds: a fine-tuned model's own would cost a training a point.
What is taken over from it is the *share of the remaining mistakes* that more rows take away, not their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.evaluation.simple_models import tfidf_logistic

PARTS = (0.125, 0.25, 0.5, 0.75, 1.0)
_ROUNDS, _DRAWS, _STRENGTH = 3, 400, 10.0
_EXPONENTS = np.arange(0.05, 1.51, 0.05)
_MOST = 20
"""The curve is not carried on past so many times the rows it was measured on."""


@dataclass(frozen=True)
class Curve:
    """rows: training rows; points: (rows, share of wrong validation answers); draws: (k, 3) of a, b, c of the power law
    a rows^-b + c (Cortes et al. 1993), one a bootstrap sample of the validation rows."""

    rows: int
    points: list[tuple[int, float]]
    draws: np.ndarray

    def wrong(self, rows: float) -> np.ndarray:
        """Share of wrong answers with so many training rows, per draw."""
        a, b, c = self.draws.T
        return np.asarray(a * rows**-b + c)

    def gain(self, more: int, wrong_now: float) -> tuple[float, float, float]:
        """(low, middle, high) of what `more` rows bring to a model that is wrong on a share `wrong_now`: 90% interval."""
        before, after = self.wrong(self.rows), self.wrong(self.rows + more)
        gains = wrong_now * np.where(before > 0, 1 - after / np.maximum(before, 1e-12), 0.0)
        low, middle, high = np.quantile(gains, [0.05, 0.5, 0.95])
        return float(low), float(middle), float(high)

    def rows_for(self, gain: float, wrong_now: float) -> int | None:
        """Further rows whose middle expectation is `gain`; None when twenty times the present rows do not bring it."""
        low, high = 0, _MOST * self.rows
        if self.gain(high, wrong_now)[1] < gain:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.gain(middle, wrong_now)[1] < gain else (low, middle)
        return high


def measure_curve(
    train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]], seed: int = 0
) -> Curve | None:
    """Train on growing parts of `train` and count mistakes on `validation` (pairs of text and label), three orders each.

    None where there is too little to measure: fewer than 80 training or 20 validation rows, or one label only.
    """
    if len(train) < 80 or len(validation) < 20 or len({label for _, label in train}) < 2:
        return None
    sizes = [int(part * len(train)) for part in PARTS]
    wrong = np.zeros((len(sizes), len(validation)))
    for turn in range(_ROUNDS):
        order = [train[i] for i in np.random.default_rng([seed, turn]).permutation(len(train))]
        for i, size in enumerate(sizes):
            texts, labels = zip(*order[:size], strict=True)
            said = tfidf_logistic(texts, labels, [t for t, _ in validation], seed, strength=_STRENGTH)
            wrong[i] += [answer != gold for answer, (_, gold) in zip(said, validation, strict=True)]
    wrong /= _ROUNDS
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(validation), (_DRAWS, len(validation)))
    shares = wrong[:, picks].mean(axis=2).T
    points = [(size, round(float(share), 4)) for size, share in zip(sizes, wrong.mean(axis=1), strict=True)]
    return Curve(len(train), points, fit(np.array(sizes, dtype=float), shares))


def fit(rows: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Least squares of wrong = a rows^-b + c with a, c >= 0 and b from a grid; wrong: (draws, points), result (draws, 3)."""
    best = np.full(len(wrong), np.inf)
    found = np.zeros((len(wrong), 3))
    mean = wrong.mean(axis=1)
    for b in _EXPONENTS:
        x = rows**-b
        spread = x - x.mean()
        a = (wrong @ spread) / (spread @ spread)
        c = mean - a * x.mean()
        through_zero = c < 0
        a = np.where(through_zero, (wrong @ x) / (x @ x), a)
        c = np.where(through_zero, 0.0, c)
        rising = a < 0
        a, c = np.where(rising, 0.0, a), np.where(rising, mean, c)
        loss = ((wrong - a[:, None] * x - c[:, None]) ** 2).sum(axis=1)
        better = loss < best - 1e-15
        best = np.where(better, loss, best)
        found[better] = np.stack([a, np.full(len(a), b), c], axis=1)[better]
    return found
