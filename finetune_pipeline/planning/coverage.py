"""Chooses the rival that answers most rows by itself, as far as validation can tell, with gates.metric: coverage."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.coverage import forecast_alone
from finetune_pipeline.evaluation.rivals import Rival
from finetune_pipeline.spec.model import TaskSpec


def surest_rival(spec: TaskSpec, rivals: Sequence[Rival], sources: SourceOf, test_rows: int) -> Rival:
    """Return the rival that will answer most rows of the test by itself. sources: of the validation rows, by id."""
    return max(
        rivals,
        key=lambda rival: sum(forecast_alone(spec, rival.rows, sources, test_rows)) / max(1, len(rival.rows)),
    )
