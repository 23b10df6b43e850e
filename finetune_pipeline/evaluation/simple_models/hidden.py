"""Logistic regression on the base model's own hidden states."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.encoders import BASE
from finetune_pipeline.evaluation.simple_models.fitted import Encoding
from finetune_pipeline.evaluation.simple_models.vector_regression import encoded_rows, vector_pipeline
from finetune_pipeline.spec.outputs import AnyOutput

DEPTHS = (1 / 3, 1 / 2, 2 / 3)
"""Layers that are tried, as shares of the model's depth. On the shipped labels the layers behind these were no better, and each
costs the time to read up to it."""


@register
class HiddenStates(SimpleModel):
    """Logistic regression on the mean of the tokens' hidden states, in the layer that the training rows choose."""

    name, title, kinds, rank = "hidden", "The base model's hidden states and logistic regression", ("labels",), 70
    packages = ("torch", "transformers", "tokenizers")

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        encoder = shared.encoders[BASE]
        layers = sorted({max(1, round(depth * encoder.depth)) for depth in DEPTHS})
        rows = encoded_rows(len(texts))
        vectors = encoder.vectors([texts[i] for i in rows], layers)
        kind, self.pipelines["hidden"] = vector_pipeline(vectors, [answers[i] for i in rows], seed)
        self.encodings = {"hidden": Encoding(BASE, layers[kind], encoder.identity)}
        self.encoders, self.has_probabilities = shared.encoders, True
        return self

    @classmethod
    def fits(cls, output: AnyOutput, shared: Shared) -> bool:
        return super().fits(output, shared) and BASE in shared.encoders
