"""Calibration of the probabilities of answers."""

import msgspec
import numpy as np
import pytest

from finetune_pipeline.evaluation.calibration import (
    PROBABILITY,
    AutomationPromise,
    Calibration,
    ReleasedProbability,
    calibrated,
    calibrated_all,
    digest_of,
    fit_calibration,
    released_probability,
)


def _rows(n: int, power: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and whether each answer is right: with the probability to this power."""
    rng = np.random.default_rng(seed)
    p = 1 - 0.9 * rng.beta(0.35, 4, n)
    return p, rng.random(n) < p**power


def test_calibrated_probabilities_are_left_as_they_are() -> None:
    assert fit_calibration(*_rows(600, 1)) == Calibration(rows=600)


@pytest.mark.parametrize("rows", (300, 3000))
def test_an_overconfident_model_is_corrected_on_rows_it_was_not_fitted_on(rows: int) -> None:
    calibration = fit_calibration(*_rows(rows, 5))
    assert calibration.method != "none" and calibration.rows == rows
    p, right = _rows(20_000, 5, seed=1)
    assert p.mean() - right.mean() > 0.15
    assert abs(calibrated_all(p, calibration).mean() - right.mean()) < 0.04
    assert calibrated(0.9, calibration) == pytest.approx(0.9**5, abs=0.08)


def test_calibration_keeps_the_order_of_probabilities() -> None:
    p, right = _rows(2000, 5)
    for calibration in (fit_calibration(p, ~right), fit_calibration(p, right)):
        assert (np.diff(calibrated_all(np.sort(p), calibration)) >= 0).all()


def test_isotonic_regression_needs_a_thousand_rows() -> None:
    """A law that no line on the logit fits: right half of the time below 0.9, nearly always above."""
    rng = np.random.default_rng(0)
    p = rng.uniform(0.5, 1, 4000)
    right = rng.random(4000) < np.where(p < 0.9, 0.5, 0.99)
    assert fit_calibration(p[:999], right[:999]).method != "isotonic"
    isotonic = fit_calibration(p, right)
    assert isotonic.method == "isotonic"
    assert calibrated(0.6, isotonic) == pytest.approx(0.5, abs=0.06)
    assert calibrated(0.97, isotonic) == pytest.approx(0.99, abs=0.03)
    assert calibrated(0.0, isotonic) > 0 and calibrated(1.0, isotonic) < 1


def test_too_few_rows_and_answers_without_a_probability_change_nothing() -> None:
    p, right = _rows(300, 5)
    assert fit_calibration(p[:49], right[:49]).method == "none"
    half = np.where(np.arange(300) % 2, p, 0.0)
    assert fit_calibration(half, right).rows == 150
    assert calibrated_all(half, fit_calibration(p, right))[0] == 0.0


def test_no_mistake_on_validation_makes_no_answer_certain() -> None:
    p = np.linspace(0.6, 1.0, 100)
    assert calibrated(1.0, fit_calibration(p, np.ones(100, bool))) <= 1.0
    assert 0.5 < calibrated(0.6, fit_calibration(p, np.ones(100, bool))) < 1.0


RECORD = {
    "winner_kind": "prompt",
    "winner_name": "zero_shot",
    "precision": "serving",
    "system_prompt": "Sort.",
    "files": {},
}


def test_a_release_gives_back_its_probability() -> None:
    promise = AutomationPromise(threshold=0.93, max_error=0.02)
    calibration = Calibration(method="isotonic", points=[(0.5, 0.4), (0.9, 0.8)], rows=1200)
    kept = ReleasedProbability(digest=digest_of(RECORD), labels=["a", "b"], calibration=calibration, promise=promise)
    record = {**RECORD, PROBABILITY: msgspec.to_builtins(kept)}
    assert released_probability(record) == kept
    assert calibrated(0.7, calibration) == pytest.approx(0.6)
    assert released_probability(RECORD) is None


@pytest.mark.parametrize("key, other", [("precision", "float32"), ("system_prompt", "Sort!"), ("winner_name", "shots")])
def test_another_precision_or_prompt_has_no_calibrated_probability(key: str, other: str) -> None:
    kept = ReleasedProbability(digest=digest_of(RECORD))
    assert released_probability({**RECORD, key: other, PROBABILITY: msgspec.to_builtins(kept)}) is None
