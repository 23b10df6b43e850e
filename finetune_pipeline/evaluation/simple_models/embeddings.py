"""Logistic regression on the vectors of a sentence encoder."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.encoders import ENCODER
from finetune_pipeline.evaluation.simple_models.fitted import Encoding
from finetune_pipeline.evaluation.simple_models.vector_regression import encoded_rows, vector_pipeline
from finetune_pipeline.spec.outputs import AnyOutput


@register
class Embeddings(SimpleModel):
    """Logistic regression on the mean of the tokens' vectors behind the last layer of ``baseline.encoder``."""

    name, title, kinds, rank = "embeddings", "Sentence embeddings and logistic regression", ("labels",), 60
    packages = ("torch", "transformers", "tokenizers")

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        encoder = shared.encoders[ENCODER]
        rows = encoded_rows(len(texts))
        vectors = encoder.vectors([texts[i] for i in rows], [encoder.depth])
        _, self.pipelines["embeddings"] = vector_pipeline(vectors, [answers[i] for i in rows], seed)
        self.encodings = {"embeddings": Encoding(ENCODER, encoder.depth, encoder.identity)}
        self.encoders, self.has_probabilities = shared.encoders, True
        return self

    @classmethod
    def fits(cls, output: AnyOutput, shared: Shared) -> bool:
        return super().fits(output, shared) and ENCODER in shared.encoders
