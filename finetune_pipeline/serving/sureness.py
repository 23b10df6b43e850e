"""How sure an answer is: its calibrated probability, or that of each of its fields, and whether it is passed on to a person or
another model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune_pipeline.evaluation.calibration import AutomationPromise, Calibration, ReleasedProbability, calibrated
from finetune_pipeline.evaluation.correctness import label_probability
from finetune_pipeline.evaluation.probabilities import share_of
from finetune_pipeline.evaluation.token_probabilities import FORM, answer_probability
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.production.log_rows import FIELD_SHARES, FIELDS_PASSED_ON


@dataclass(frozen=True)
class Sureness:
    """How sure a whole answer is.

    Attributes:
        probability: Calibrated; None of an answer without one, such as one that is truncated, is no label, or was decoded otherwise
            than in the evaluation. Such an answer is never sure.
        passed_on: Whether the probability is below the threshold that the sealed test certified; None without a promise.
    """

    probability: float | None
    passed_on: bool | None

    def facts(self) -> dict[str, object]:
        """Return the fields for the response and the log."""
        passed_on = {} if self.passed_on is None else {"passed_on": self.passed_on}
        return {"probability": self.probability, **passed_on}


@dataclass(frozen=True)
class FieldSureness:
    """How sure each field of an answer is, where fields are promised.

    Attributes:
        shares: The calibrated probability of each field of the answer and of the promise, by dotted path; None of one without.
        below: The fields that are passed on: below the threshold, without a probability, or not tested.
    """

    shares: Mapping[str, float | None]
    below: Sequence[str]

    @property
    def passed_on(self) -> bool:
        """Whether any field is passed on."""
        return bool(self.below) or not self.shares

    def facts(self) -> dict[str, object]:
        """Return the fields for the response and the log."""
        return {FIELD_SHARES: dict(self.shares), FIELDS_PASSED_ON: [*self.below], "passed_on": self.passed_on}


AnySureness = Sureness | FieldSureness


def sureness(
    answer: Answer,
    labels: Sequence[str],
    released: ReleasedProbability | None,
    as_evaluated: bool = True,
    fields: Callable[[Answer], Mapping[str, float]] = lambda _: {},
) -> AnySureness | None:
    """Return how sure an answer is; None if nothing is known about the probabilities of this model.

    Args:
        labels: Those of `answer.label_scores`.
        as_evaluated: Whether the answer was decoded as in the evaluation.
        fields: Returns the probabilities of its fields (token_probabilities.field_probabilities); called where fields are promised.
    """
    if released is None:
        return None
    promise = released.promise
    if promise and promise.unit == "field":
        return _of_fields(fields(answer) if as_evaluated else {}, promise, released.calibration)
    raw = None
    if answer.status == "ok" and released.labels:
        raw = label_probability(answer.text, answer.label_scores, labels)
    elif not released.labels:
        raw = answer_probability(answer)
    probability = calibrated(raw, released.calibration) if raw and as_evaluated else None
    if promise is None:
        return Sureness(probability, None)
    return Sureness(probability, probability is None or probability < promise.threshold)


def _of_fields(shares: Mapping[str, float], promise: AutomationPromise, calibration: Calibration) -> FieldSureness:
    """Return how sure each field is: those of the answer, and those of the promise that it leaves out."""
    raw = {name: share_of(shares, name) for name in sorted({*shares, *promise.fields} - {FORM})}
    table = {name: calibrated(share, calibration) if share else None for name, share in raw.items()}
    below = [
        name
        for name, share in table.items()
        if share is None or share < promise.threshold or name not in promise.fields
    ]
    return FieldSureness(table, below)
