"""Logistic regression on the vectors of a sentence encoder."""

from finetune_pipeline.evaluation.simple_models.base import register
from finetune_pipeline.evaluation.simple_models.encoders import ENCODER
from finetune_pipeline.evaluation.simple_models.vector_regression import VectorRegression


@register
class Embeddings(VectorRegression):
    """Logistic regression on the mean of the tokens' vectors behind the last layer of ``baseline.encoder``."""

    name, title, rank, reads = "embeddings", "Sentence embeddings and logistic regression", 60, ENCODER

    @staticmethod
    def layers(depth: int) -> list[int]:
        return [depth]
