"""Calibration: turns the probability that a model gives its answer into the share of such answers that is right.

Temperature and Platt's scaling work on the logit of the probability (Guo et al. 2017; Platt 1999); isotonic regression
(Zadrozny and Elkan 2002) needs ISOTONIC_ROWS. All are fitted on validation; the one with the least cross-fitted log loss is kept,
and none of them where the probability as it is has less.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec
import numpy as np
import scipy

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_json

Method = Literal["none", "temperature", "platt", "isotonic"]
Unit = Literal["answer", "field"]
LEAST_ROWS, ISOTONIC_ROWS = 50, 1_000
"""With fewer rows the probability stays as it is; with fewer than the second, no isotonic regression is tried."""
FOLDS = 5
_SMALLEST = 1e-9
"""A probability is at least this, and at most 1 minus this, so that its logit is finite."""


class Calibration(Facts, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=True):
    """How a model's probabilities are calibrated.

    Attributes:
        method: `none`: the probability stays as it is.
        slope, intercept: Of the logit; a temperature is 1 / slope.
        points: (probability, calibrated) of isotonic regression, ascending; between them lines.
        rows: Validation rows it was fitted on.
    """

    method: Method = "none"
    slope: float = 1.0
    intercept: float = 0.0
    points: list[tuple[float, float]] = []
    rows: int = 0


class AutomationPromise(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the sealed test certified: of the answers with at least this calibrated probability, at most max_error are wrong.

    Attributes:
        unit: Whether whole answers are right or wrong, or each field of a JSON answer.
        fields: With unit field: the dotted paths of the fields that were tested; of others nothing is promised. One that an answer
            leaves out has the probability of the answer's form (token_probabilities.FORM).
    """

    threshold: float
    max_error: float
    unit: Unit = "answer"
    fields: list[str] = []


class ReleasedProbability(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The probability of a released model's answers, or of their fields, kept with the release under PROBABILITY.

    Attributes:
        digest: Of the model, its prompt, decoding and precision, see :func:`digest_of`; with others nothing of this holds.
        labels: The probability is that of the likeliest of these; empty: that of token_probabilities.
        promise: None without automation.max_error.
    """

    digest: str = ""
    labels: list[str] = []
    calibration: Calibration = Calibration()
    promise: AutomationPromise | None = None


Fit = Callable[[np.ndarray, np.ndarray], Calibration]
PROBABILITY = "probability"
"""Key of a release's record (earlier_runs.RECORD) that holds its ReleasedProbability; null without one."""
_TIED = (
    *("winner_kind", "winner_name", "merged_version", "base_identity", "files"),
    *("system_prompt", "precision", "json_schema", "constrained_decoding"),
)
"""Keys of the record on which the probabilities depend."""


def digest_of(record: Mapping[str, object]) -> str:
    """Return the digest of what a release's probabilities depend on: its model, prompt, decoding and precision."""
    return digest_json({key: record.get(key) for key in _TIED})


def released_probability(record: Mapping[str, object]) -> ReleasedProbability | None:
    """Return the probability of a released model's answers, from the record of its release. None if it has none, or if the record
    names another model, prompt, decoding or precision than the one that was calibrated."""
    if not record.get(PROBABILITY):
        return None
    released = msgspec.convert(record[PROBABILITY], ReleasedProbability)
    return released if released.digest == digest_of(record) else None


def calibrated(probability: float, calibration: Calibration) -> float:
    """Return the calibrated probability. It grows with the model's own, or stays equal."""
    return float(_apply(np.array([probability]), calibration)[0])


def _apply(probabilities: np.ndarray, calibration: Calibration) -> np.ndarray:
    if calibration.method == "none":
        return probabilities
    if calibration.method == "isotonic":
        given, wanted = zip(*calibration.points, strict=True)
        return np.asarray(np.interp(probabilities, given, wanted))
    return np.asarray(scipy.special.expit(calibration.slope * _logit(probabilities) + calibration.intercept))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(scipy.special.logit(np.clip(probabilities, _SMALLEST, 1 - _SMALLEST)))


def calibrated_all(probabilities: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Return the calibrated probabilities; 0, an answer without one, stays 0."""
    return np.asarray(np.where(probabilities > 0, _apply(probabilities, calibration), 0.0))


def fit_calibration(probabilities: np.ndarray, right: np.ndarray) -> Calibration:
    """Fit every method on validation rows of different sources, and return the one with the least cross-fitted log loss.

    Args:
        probabilities: Of the answers; rows with 0, which have none, are left out. Shape [rows].
        right: Whether they are right. Shape [rows].
    """
    known = probabilities > 0
    p, y = probabilities[known], right[known].astype(float)
    rows = len(p)
    if rows < LEAST_ROWS:
        return Calibration(rows=rows)
    folds = np.arange(rows) % FOLDS
    methods = {name: fit for name, fit in _METHODS.items() if name != "isotonic" or rows >= ISOTONIC_ROWS}
    losses = {name: _cross_fitted_loss(fit, p, y, folds) for name, fit in methods.items()}
    best = min(losses, key=lambda name: losses[name])
    return msgspec.structs.replace(methods[best](p, y), rows=rows)


def _cross_fitted_loss(fit: Fit, p: np.ndarray, y: np.ndarray, folds: np.ndarray) -> float:
    losses = np.zeros(len(p))
    for fold in np.unique(folds):
        out = folds == fold
        if not out.all():
            losses[out] = _log_loss(_apply(p[out], fit(p[~out], y[~out])), y[out])
    return float(losses.mean())


def _log_loss(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    p = np.clip(p, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(-(y * np.log(p) + (1 - y) * np.log1p(-p)))


def _smoothed(y: np.ndarray) -> np.ndarray:
    """Platt's targets: no share of right answers is 0 or 1, however few rows there are."""
    right = y.sum()
    return np.asarray(np.where(y > 0, (right + 1) / (right + 2), 1 / (len(y) - right + 2)))


def _scaled(p: np.ndarray, y: np.ndarray, method: Method) -> Calibration:
    logits, targets = _logit(p), _smoothed(y)

    def loss(parameters: np.ndarray) -> float:
        scaled = parameters[0] * logits + (parameters[1] if len(parameters) > 1 else 0.0)
        return float((np.logaddexp(0, scaled) - targets * scaled).mean())

    start = [1.0] if method == "temperature" else [1.0, 0.0]
    bounds = [(1e-3, 1e3), (-50.0, 50.0)][: len(start)]  # a slope above 0 keeps the order
    fitted = scipy.optimize.minimize(loss, start, method="L-BFGS-B", bounds=bounds).x
    return Calibration(method=method, slope=float(fitted[0]), intercept=float(fitted[1]) if len(fitted) > 1 else 0.0)


def _isotonic(p: np.ndarray, y: np.ndarray) -> Calibration:
    from sklearn.isotonic import IsotonicRegression

    least = 1 / (len(y) + 2)
    fitted = IsotonicRegression(y_min=least, y_max=1 - least, out_of_bounds="clip").fit(p, y)
    points = zip(fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist(), strict=True)
    return Calibration(method="isotonic", points=list(points))


_METHODS: dict[str, Fit] = {
    "none": lambda p, y: Calibration(),
    "temperature": lambda p, y: _scaled(p, y, "temperature"),
    "platt": lambda p, y: _scaled(p, y, "platt"),
    "isotonic": _isotonic,
}
"""Simplest first: of two with equal loss the simpler is kept."""
