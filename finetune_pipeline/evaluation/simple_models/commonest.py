"""The answers that ignore the input."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.features import constant
from finetune_pipeline.evaluation.simple_models.json_fields import field_table
from finetune_pipeline.spec.outputs import AnyOutput


@register
class CommonestAnswer(SimpleModel):
    """Gives the answer that most training rows have."""

    name, title, rank, ignores_input = "commonest", "Always the commonest answer", 10, True

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        self.pipelines = {"model": constant(texts, answers)}
        return self


@register
class CommonestFields(SimpleModel):
    """Gives a JSON object that holds each field's commonest value."""

    name, title, kinds = "commonest_fields", "Each field's commonest value", ("json",)
    rank, ignores_input = 20, True

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        paths, table = field_table(answers, output)
        self.fields = {"closed": paths}
        self.pipelines = {"closed": constant(texts, table)}
        return self
