"""How sure an answer is: its calibrated probability, and whether it is passed on to a person or another model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.evaluation.calibration import ReleasedProbability, calibrated
from finetune_pipeline.evaluation.correctness import label_probability
from finetune_pipeline.evaluation.token_probabilities import answer_probability
from finetune_pipeline.models.inference.generated import Answer


@dataclass(frozen=True)
class Sureness:
    """How sure an answer is.

    Attributes:
        probability: Calibrated; None of an answer without one, such as one that is truncated, is no label, or was decoded otherwise
            than in the evaluation. Such an answer is never sure.
        passed_on: Whether the probability is below the threshold that the sealed test certified; None without a promise.
    """

    probability: float | None
    passed_on: bool | None

    def facts(self) -> dict[str, Any]:
        """Return the fields for the response and the log."""
        passed_on = {} if self.passed_on is None else {"passed_on": self.passed_on}
        return {"probability": self.probability, **passed_on}


def sureness(
    answer: Answer, labels: Sequence[str], released: ReleasedProbability | None, as_evaluated: bool = True
) -> Sureness | None:
    """Return how sure an answer is; None if nothing is known about the probabilities of this model, or if they are those of the
    fields of JSON answers, which are not judged in service.

    Args:
        labels: Those of `answer.label_scores`.
        as_evaluated: Whether the answer was decoded as in the evaluation.
    """
    if released is None or (released.promise and released.promise.unit != "answer"):
        return None
    raw = None
    if answer.status == "ok" and released.labels:
        raw = label_probability(answer.text, answer.label_scores, labels)
    elif not released.labels:
        raw = answer_probability(answer)
    probability = calibrated(raw, released.calibration) if raw and as_evaluated else None
    promise = released.promise
    if promise is None:
        return Sureness(probability, None)
    return Sureness(probability, probability is None or probability < promise.threshold)
