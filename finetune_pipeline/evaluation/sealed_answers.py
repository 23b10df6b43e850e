"""Facts of test_predictions: the answers to the sealed test."""

from typing import Any

from finetune_pipeline.evaluation.prediction_facts import ApiUsage, Predicted
from finetune_pipeline.evaluation.teacher_rival import AskedTeacher


class SealedAnswers(Predicted, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of test_predictions.

    Attributes:
        kinds: The kind of candidate and champion.
        champion: As in engine.step.RunInputs.
        api, teacher: None if they were not asked.
        untrained: Why nothing was trained; empty if there is a candidate.
    """

    kinds: dict[str, str]
    champion: dict[str, Any]
    api: ApiUsage | None
    teacher: AskedTeacher | None = None
    untrained: str
