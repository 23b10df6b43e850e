"""Makes the retraining decision: compares the expected gain of new rows with the required minimum.

The expected gain comes from the learning curve of the linear baseline, which trains in seconds, on growing parts of the
training data. The curve gives the *share of the remaining mistakes* that more rows remove, not their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from finetune_pipeline.baseline.learning_curve import MAX_CARRY, LearningCurve, rows_for
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.evaluation.simple_models.linear import linear_pipeline
from finetune_pipeline.production.drift import DriftReport
from finetune_pipeline.spec.model import TaskSpec

PARTS = (0.125, 0.25, 0.5, 0.75, 1.0)
_ORDERS, _DRAWS, _STRENGTH = 3, 400, 10.0
"""Random orders of the training data, bootstrap samples of the validation rows, and C of the linear baseline."""


class Gain(NamedTuple):
    """An expected gain of correct answers, as a share, with a 90% interval."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class RowsWorth:
    """What more rows are worth to the linear baseline, as a learning curve of its right answers over its training rows."""

    curve: LearningCurve

    @property
    def points(self) -> list[tuple[int, float]]:
        """(rows, share of wrong validation answers) as measured."""
        return [
            (int(n), round(1 - float(right), 4)) for n, right in zip(self.curve.sizes, self.curve.scores, strict=True)
        ]

    def gain(self, more: int, wrong_now: float) -> Gain:
        """Return the gain from `more` rows for a model with error rate `wrong_now`: the same share of its mistakes goes."""
        rows = self.curve.sizes[-1]
        before, after = 1 - self.curve.draws_at(rows), 1 - self.curve.draws_at(rows + more)
        removed = np.where(before > 0, 1 - after / np.maximum(before, 1e-12), 0.0)
        low, high = wrong_now * np.quantile(removed, [0.05, 0.95])
        wrong = 1 - self.curve.at(rows)
        middle = wrong_now * (self.curve.at(rows + more) - self.curve.at(rows)) / wrong if wrong > 0 else 0.0
        return Gain(float(low), middle, float(high))

    def rows_for(self, gain: float, wrong_now: float) -> int | None:
        """Return how many more rows are expected to gain this much; None if the curve is too flat."""
        wrong = 1 - self.curve.at(self.curve.sizes[-1])
        if wrong_now <= 0 or gain >= wrong_now:
            return None
        return rows_for(gain * wrong / wrong_now, self.curve.slope, int(self.curve.sizes[-1]))


def measure_curve(
    train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]], seed: int = 0
) -> RowsWorth | None:
    """Measure the learning curve of the linear baseline: train on growing parts of `train`, count mistakes on `validation`.

    Rows are pairs of text and label. Returns None with fewer than 80 training or 20 validation rows, or one label only.
    """
    if len(train) < 80 or len(validation) < 20 or len({label for _, label in train}) < 2:
        return None
    sizes = [int(part * len(train)) for part in PARTS]
    mistakes = np.zeros((len(sizes), len(validation)))
    for number in range(_ORDERS):
        order = [train[i] for i in np.random.default_rng([seed, number]).permutation(len(train))]
        for i, size in enumerate(sizes):
            texts, labels = zip(*order[:size], strict=True)
            model = linear_pipeline(texts, labels, seed, strength=_STRENGTH)
            predicted = model.predict([text for text, _ in validation])
            mistakes[i] += [answer != gold for answer, (_, gold) in zip(predicted, validation, strict=True)]
    mistakes /= _ORDERS
    rng = np.random.default_rng(seed)
    samples = rng.integers(0, len(validation), (_DRAWS, len(validation)))
    draws = 1 - mistakes[:, samples].mean(axis=2).T
    curve = LearningCurve(sizes, 1 - mistakes.mean(axis=1), draws, rng.uniform(0, MAX_CARRY, _DRAWS))
    return RowsWorth(curve)


@dataclass(frozen=True)
class Evidence:
    """The basis of a retraining decision: the number of new rows with a known answer, the champion's share of wrong test
    answers (None if unknown), and the learning curve (None if it cannot be measured)."""

    usable: int
    wrong_now: float | None = None
    curve: RowsWorth | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A retraining decision.

    Attributes:
        usable_rows: New rows with a known answer.
        wait_for_rows: More rows to wait for; None if none are needed, or no number is expected to be enough.
        gain: Expected gain of correct answers: the expected one within its 90% interval.
        curve: The measured points of the learning curve, as (rows, share of wrong validation answers).
    """

    retrain: bool
    usable_rows: int
    wait_for_rows: int | None
    gain: Gain | None
    curve: list[tuple[int, float]] | None
    reasons: list[str]
    sentence: str


def decide_retraining(spec: TaskSpec, drift: DriftReport, evidence: Evidence, out: Path) -> Decision:
    """Decide whether to train again or wait for more rows (and how many); write decision.json.

    After drift, `retraining.rows_after_drift` new rows are enough, since the old data's curve says nothing about new
    questions. Otherwise the learning curve gives the expected gain of the new rows; below `retraining.min_gain`, waiting is
    better. If no curve can be measured (answers without labels, few rows), `logs.min_new_rows` decides.
    """
    drifted, usable = drift.drifted, evidence.usable
    reasons = [
        f"{usable} new rows with a known answer since the champion's data were collected",
        drift.sentence,
    ]
    gain = missing_rows = None
    if evidence.curve is not None and evidence.wrong_now is not None:
        gain = evidence.curve.gain(usable, evidence.wrong_now)
        reasons.append(
            f"they are expected to add {_points(gain.middle)} points of correct answers ({_points(gain.low)} to "
            f"{_points(gain.high)}): the share of the champion's {_points(evidence.wrong_now)}% mistakes that this many rows "
            "remove from the linear baseline, extrapolated by its learning curve"
        )
    if drifted and usable >= spec.retraining.rows_after_drift:
        retrain, sentence = True, f"Train again: {usable} new rows, and drift in {', '.join(drifted)}."
    elif drifted:
        retrain, missing_rows = False, spec.retraining.rows_after_drift - usable
        sentence = (
            f"Production drifted in {', '.join(drifted)}, but {usable} new rows with a known answer are too few to learn it: "
            f"wait for {missing_rows} more, or label some (finetune review {spec.name})."
        )
    elif gain is not None:
        retrain, missing_rows, sentence = _by_curve(spec, evidence, gain)
    else:
        needed = spec.logs.min_new_rows
        retrain = usable >= needed
        missing_rows = None if retrain else needed - usable
        sentence = f"Train again: {usable} new rows." if retrain else f"Wait for {missing_rows} more corrected rows."
    decision = Decision(
        retrain=retrain,
        usable_rows=usable,
        wait_for_rows=missing_rows,
        gain=None if gain is None else Gain(*(round(value, 5) for value in gain)),
        curve=evidence.curve.points if evidence.curve is not None else None,
        reasons=reasons,
        sentence=sentence,
    )
    write_json(out / "decision.json", msgspec.to_builtins(decision))
    return decision


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _by_curve(spec: TaskSpec, evidence: Evidence, gain: Gain) -> tuple[bool, int | None, str]:
    """Return (whether to train again, how many more rows to wait for, a sentence) by the expected gain."""
    assert evidence.curve is not None
    assert evidence.wrong_now is not None
    min_gain = spec.retraining.min_gain
    expected = f"{evidence.usable} new rows are expected to add {_points(gain.middle)} points"
    if gain.middle >= min_gain:
        return True, None, f"Train again: {expected} ({_points(gain.low)} to {_points(gain.high)})."
    needed = evidence.curve.rows_for(min_gain, evidence.wrong_now)
    if needed is None:
        sentence = (
            f"Do not train again: {expected}, and no number of such rows is expected to reach the required "
            f"{_points(min_gain)} points. Other rows, a larger base or another method may help."
        )
        return False, None, sentence
    wait = max(1, needed - evidence.usable)
    return False, wait, f"Wait for {wait} more rows: {expected}, but {_points(min_gain)} points are required."
