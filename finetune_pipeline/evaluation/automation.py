"""Which answers need no person: a threshold of the answer's probability under which at most a promised share is wrong.

The probability is the calibrated one of probabilities.probability_of. Candidate thresholds are quantiles of the probabilities on
validation, from strict to loose. Validation says with which of them to begin; the sealed test then decides, by fixed-sequence
testing (Learn then Test: Angelopoulos et al. 2021, section 3): each threshold is tested by the exact binomial test of "more than
`max_error` of the answered rows are wrong", from the first to looser ones, up to the first that is not rejected. The chance that
the last rejected threshold breaks the promise is at most the level, however many were tested.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy

from finetune_pipeline.evaluation.calibration import Unit
from finetune_pipeline.evaluation.probabilities import Answers
from finetune_pipeline.evaluation.result_parts import Attainable, Automation, TestedThreshold
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval

STEPS = 20
"""Number of candidate thresholds: quantiles of validation, each with a twentieth more rows answered."""
LOOSER_ERRORS = (0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)
"""Where a promise cannot be shown, the first of these errors that could have been is named."""
CHANCE, MOST_ROWS = 0.8, 1_000_000
"""The chance with which a test of the named size shows a promise, and the most answered rows that are named."""


def rows_needed(max_error: float, alpha: float) -> int:
    """Return how many answered rows without a mistake show an error of at most `max_error`: (1 - max_error)^n <= alpha."""
    return math.ceil(math.log(alpha) / math.log1p(-max_error) - 1e-9)


def upper_bound(mistakes: int, n: int, alpha: float) -> float:
    """Return the one-sided upper bound of a share, `mistakes` of `n` (Clopper and Pearson 1934)."""
    return 1.0 if mistakes >= n else float(scipy.special.betaincinv(mistakes + 1, n - mistakes, 1 - alpha))


def allowed_mistakes(n: int, max_error: float, alpha: float) -> int:
    """Return the most mistakes in `n` rows at which the test rejects an error above `max_error`; -1 if none is few enough."""
    k = int(scipy.special.bdtrik(alpha, n, max_error)) if n >= rows_needed(max_error, alpha) else -1
    while k >= 0 and scipy.special.bdtr(k, n, max_error) > alpha:
        k -= 1
    return k


def candidates(validation: Answers) -> list[float]:
    """Return the candidate thresholds, from strict to loose: quantiles of the probabilities on validation."""
    sure = validation.probabilities[validation.probabilities > 0]
    if not len(sure):
        return []
    shares = np.arange(1, STEPS + 1) / STEPS
    return sorted({float(q) for q in np.quantile(sure, 1 - shares, method="lower")}, reverse=True)


def first_of(thresholds: Sequence[float], validation: Answers, test_rows: int, max_error: float, alpha: float) -> int:
    """Return the index of the threshold to test first: the one whose test is the likeliest to succeed, the strictest of equal ones.

    Looser thresholds are tested after it at the same level, so beginning strictly costs nothing where these succeed. The chance is
    that of a beta-binomial forecast from validation (Jeffreys' prior).
    """
    return int(np.argmax(_chances(thresholds, validation, test_rows, max_error, alpha))) if thresholds else 0


def probable_threshold(validation: Answers, test_rows: int, max_error: float, alpha: float) -> float | None:
    """Return the loosest threshold that a test of this many rows probably certifies, by the forecast of first_of; None without."""
    thresholds = candidates(validation)
    if not thresholds:
        return None
    chances = _chances(thresholds, validation, test_rows, max_error, alpha)
    return min((t for t, chance in zip(thresholds, chances, strict=True) if chance >= 0.5), default=None)


def _chances(
    thresholds: Sequence[float], validation: Answers, test_rows: int, max_error: float, alpha: float
) -> np.ndarray:
    answered, wrong = np.array([validation.at_least(threshold) for threshold in thresholds]).T
    expected = np.round(answered / len(validation.right) * test_rows).astype(int)
    most = np.array([allowed_mistakes(n, max_error, alpha) for n in expected.tolist()])
    chances = scipy.stats.betabinom.cdf(most, expected, wrong + 0.5, answered - wrong + 0.5)
    return np.where(most >= 0, chances, 0.0)


def _tested(
    validation: Answers, test: Answers, max_error: float, alpha: float
) -> tuple[TestedThreshold | None, list[TestedThreshold], int]:
    """Return the last threshold that the test lets through, all that were tested, and how many might have been."""
    thresholds, tested, chosen = candidates(validation), list[TestedThreshold](), None
    possible = thresholds[first_of(thresholds, validation, len(test.right), max_error, alpha) :]
    for threshold in possible:
        answered, wrong = test.at_least(threshold)
        p = float(scipy.special.bdtr(wrong, answered, max_error)) if answered else 1.0
        bound = upper_bound(wrong, answered, alpha)
        entry = TestedThreshold(threshold=threshold, answered=answered, mistakes=wrong, p=p, upper_bound=bound)
        tested.append(entry)
        if p > alpha:
            break
        chosen = entry
    return chosen, tested, len(possible)


def _rows_for(tested: TestedThreshold, n: int, max_error: float, alpha: float) -> int | None:
    """Return how many test rows show the error with a chance of CHANCE, if as many are answered and wrong as in this test; None if
    none do, since too many of them are wrong."""
    wrong = (tested.mistakes + 0.5) / (tested.answered + 1)
    if wrong >= max_error or not tested.answered:
        return None
    answered = rows_needed(max_error, alpha)
    while scipy.special.bdtr(max(0, allowed_mistakes(answered, max_error, alpha)), answered, wrong) < CHANCE:
        answered = math.ceil(answered * 1.05)
        if answered > MOST_ROWS:
            return None
    return math.ceil(answered * n / tested.answered)


def certify(
    validation: Answers,
    test: Answers,
    max_error: float,
    alpha: float,
    unit: Unit = "answer",
    fields: Sequence[str] = (),
) -> Automation:
    """Choose a threshold on validation and test it, and then looser ones, on the sealed rows.

    Args:
        max_error: Promised largest share of wrong answers among the answered rows.
        alpha: The chance of a broken promise.
        unit, fields: What is right or wrong, see probabilities.answers_of.
    """
    n = len(test.right)
    chosen, tested, possible = _tested(validation, test, max_error, alpha)
    answered, wrong = (chosen.answered, chosen.mistakes) if chosen else (0, 0)
    mistakes = int((~test.right).sum())
    attainable = None
    if not chosen:
        for looser in (error for error in LOOSER_ERRORS if error > max_error):
            shown, *_ = _tested(validation, test, looser, alpha)
            if shown:
                attainable = Attainable(max_error=looser, coverage=shown.answered / n)
                break
    return Automation(
        max_error=max_error,
        alpha=alpha,
        unit=unit,
        fields=list(fields),
        n=n,
        needed=rows_needed(max_error, alpha),
        threshold=chosen.threshold if chosen else None,
        possible=possible,
        answered=answered,
        mistakes=wrong,
        upper_bound=chosen.upper_bound if chosen else None,
        coverage=answered / n if n else 0.0,
        coverage_interval=wilson_interval(answered, n),
        passed_on=n - answered,
        mistakes_passed_on=mistakes - wrong if chosen else 0,
        all_mistakes=mistakes,
        tested=tested,
        attainable=attainable,
        rows_for_it=None if chosen or not tested else _rows_for(tested[0], n, max_error, alpha),
    )
