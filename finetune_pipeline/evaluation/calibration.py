"""Whether a model that is sure of a label is right as often as it is sure: from the likelihoods of the labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def probabilities(label_scores: Sequence[float]) -> np.ndarray | None:
    """Probabilities of the labels from their log-likelihoods, made to sum to 1; None where a score is not usable."""
    scores = np.asarray(label_scores, dtype=float)
    if not len(scores) or np.isnan(scores).any() or not np.isfinite(scores.max()):
        return None
    shares = np.exp(scores - scores.max())
    made: np.ndarray = shares / shares.sum()
    return made


def calibration(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], bins: int = 10) -> dict[str, Any] | None:
    """Calibration of the label likelihoods; None where no row has any.

    `n` rows with usable scores, `confidence` (mean probability of the label taken) beside `accuracy`; `ece`: expected
    calibration error, the mean distance of confidence and accuracy over `bins` bins of equal width, weighted by their
    rows (Naeini et al. 2015); `brier`: mean squared distance of the probabilities from the truth, summed over the labels
    (0 to 2; Brier 1950); `log_loss` in nats; `reliability`: per bin that holds rows low, high, n, confidence, accuracy.
    """
    index = {label: i for i, label in enumerate(labels)}
    made = [(p, index[row["gold"]]) for row in rows if (p := probabilities(row["label_scores"])) is not None]
    if not made:
        return None
    shares, gold = np.array([p for p, _ in made]), np.array([g for _, g in made])
    n = len(gold)
    taken = shares.argmax(axis=1)
    sure, right = shares[np.arange(n), taken], (taken == gold).astype(float)
    truth = np.eye(len(labels))[gold]
    place = np.minimum((sure * bins).astype(int), bins - 1)
    reliability = [
        {
            "low": i / bins,
            "high": (i + 1) / bins,
            "n": int(held.sum()),
            "confidence": float(sure[held].mean()),
            "accuracy": float(right[held].mean()),
        }
        for i in range(bins)
        if (held := place == i).any()
    ]
    return {
        "n": n,
        "confidence": float(sure.mean()),
        "accuracy": float(right.mean()),
        "ece": sum(b["n"] / n * abs(b["confidence"] - b["accuracy"]) for b in reliability),
        "brier": float(((shares - truth) ** 2).sum(axis=1).mean()),
        "log_loss": float(-np.log(np.maximum(shares[np.arange(n), gold], math.exp(-50))).mean()),
        "reliability": reliability,
    }
