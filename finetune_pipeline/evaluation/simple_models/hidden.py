"""Logistic regression on the base model's own hidden states."""

from finetune_pipeline.evaluation.simple_models.base import register
from finetune_pipeline.evaluation.simple_models.encoders import BASE
from finetune_pipeline.evaluation.simple_models.vector_regression import VectorRegression

DEPTHS = (1 / 3, 1 / 2, 2 / 3)
"""Layers that are tried, as shares of the model's depth. On the shipped labels the layers behind these were no better, and each
costs the time to read up to it."""


@register
class HiddenStates(VectorRegression):
    """Logistic regression on the mean of the tokens' hidden states, in the layer that the training rows choose."""

    name, title, rank, reads = "hidden", "The base model's hidden states and logistic regression", 70, BASE

    @staticmethod
    def layers(depth: int) -> list[int]:
        return sorted({max(1, round(share * depth)) for share in DEPTHS})
