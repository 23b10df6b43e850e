"""Which answers need no person: a threshold of the answer's probability under which at most a promised share is wrong.

The probability is that of the likeliest label among the allowed ones. Candidate thresholds are quantiles of the probabilities on
validation, from strict to loose. Validation says with which of them to begin; the sealed test then decides, by fixed-sequence
testing (Learn then Test: Angelopoulos et al. 2021, section 3): each threshold is tested by the exact binomial test of "more than
`max_error` of the answered rows are wrong", from the first to looser ones, up to the first that is not rejected. The chance that
the last rejected threshold breaks the promise is at most the level, however many were tested.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from finetune_pipeline.evaluation.correctness import Row, likelihood_label
from finetune_pipeline.evaluation.result_parts import Automation, TestedThreshold
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval

ON_VALIDATION = "candidate:validation"
"""The candidate's answers to validation rows, in predictions."""
STEPS = 20
"""Number of candidate thresholds: quantiles of validation, each with a twentieth more rows answered."""


@dataclass(frozen=True)
class Answers:
    """Answers of one model to one set of rows.

    Attributes:
        probabilities: Of the answers, 0 where there is none. Shape [rows].
        right: Whether they are right. Shape [rows].
    """

    probabilities: np.ndarray
    right: np.ndarray

    def at_least(self, threshold: float) -> tuple[int, int]:
        """Return how many rows are answered at a threshold, and how many of them wrongly."""
        answered = self.probabilities >= threshold
        return int(answered.sum()), int((answered & ~self.right).sum())


def answers_of(rows: Sequence[Row], labels: Sequence[str], sources: Mapping[str, str] | None = None) -> Answers:
    """Return the probabilities of a model's answers. sources: the source of each row, by id: rows of one source are no
    independent evidence, so only the first by id of each counts."""
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: str(row["example_id"])):
        first.setdefault((sources or {}).get(row["example_id"], row["example_id"]), row)
    probabilities, right = [], []
    for row in first.values():
        label = likelihood_label(row["label_scores"], labels)
        # what is generated is served: an answer that is not the likeliest label is never sure
        sure = label is not None and row["status"] == "ok" and row["text"].strip() == label
        probabilities.append(float(scipy.special.softmax(row["label_scores"]).max()) if sure else 0.0)
        right.append(label == row["gold"])
    return Answers(np.array(probabilities, float), np.array(right, bool))


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
    """Return the index of the threshold to test first: the one with the largest share answered times the chance that its test
    succeeds. The chance is that of a beta-binomial forecast from validation (Jeffreys' prior)."""
    best, best_value = 0, -1.0
    for i, threshold in enumerate(thresholds):
        answered, wrong = validation.at_least(threshold)
        share = answered / len(validation.right)
        expected = round(share * test_rows)
        most = allowed_mistakes(expected, max_error, alpha)
        chance = 0.0
        if most >= 0:
            chance = float(scipy.stats.betabinom.cdf(most, expected, wrong + 0.5, answered - wrong + 0.5))
        if share * chance > best_value:
            best, best_value = i, share * chance
    return best


def certify(validation: Answers, test: Answers, max_error: float, alpha: float) -> Automation:
    """Choose a threshold on validation and test it, and then looser ones, on the sealed rows.

    Args:
        max_error: Promised largest share of wrong answers among the answered rows.
        alpha: The chance of a broken promise.
    """
    n, needed, tested = len(test.right), rows_needed(max_error, alpha), list[TestedThreshold]()
    thresholds = candidates(validation)
    chosen: TestedThreshold | None = None
    for threshold in thresholds[first_of(thresholds, validation, n, max_error, alpha) :]:
        answered, wrong = test.at_least(threshold)
        p = float(scipy.special.bdtr(wrong, answered, max_error)) if answered else 1.0
        bound = upper_bound(wrong, answered, alpha)
        entry = TestedThreshold(threshold=threshold, answered=answered, mistakes=wrong, p=p, upper_bound=bound)
        tested.append(entry)
        if p > alpha:
            break
        chosen = entry
    answered = chosen.answered if chosen else 0
    mistakes, caught = int((~test.right).sum()), 0
    if chosen:
        caught = mistakes - chosen.mistakes
    return Automation(
        max_error=max_error,
        alpha=alpha,
        n=n,
        needed=needed,
        threshold=chosen.threshold if chosen else None,
        answered=answered,
        mistakes=chosen.mistakes if chosen else 0,
        upper_bound=chosen.upper_bound if chosen else None,
        coverage=answered / n if n else 0.0,
        coverage_interval=wilson_interval(answered, n),
        passed_on=n - answered,
        mistakes_passed_on=caught,
        all_mistakes=mistakes,
        tested=tested,
    )
