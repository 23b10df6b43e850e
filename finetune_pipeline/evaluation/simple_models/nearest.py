"""The nearest training row's answer."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.features import nearest
from finetune_pipeline.spec.outputs import AnyOutput


@register
class NearestRow(SimpleModel):
    """Copies the answer of the training row whose text is most like the question (cosine of character n-grams)."""

    name, title, rank = "nearest", "The nearest training row's answer", 30

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        self.pipelines = {"model": nearest(texts, answers)}
        return self
