"""TF-IDF and vectors together."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
from finetune_pipeline.evaluation.simple_models.embeddings import Embeddings
from finetune_pipeline.evaluation.simple_models.hidden import HiddenStates
from finetune_pipeline.evaluation.simple_models.linear import TfidfLogistic
from finetune_pipeline.spec.outputs import AnyOutput

READERS = (Embeddings.name, HiddenStates.name)
"""Models that read vectors."""


@register
class Stack(SimpleModel):
    """The mean of the probabilities by TF-IDF and by the models that read vectors, all of which were fitted before.

    One logistic regression on both kinds of features was no better on the shipped labels, and takes longer to fit.
    """

    name, title, kinds, rank = "stack", "TF-IDF and vectors together, by mean probability", ("labels",), 80
    packages = HiddenStates.packages

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        linear = shared.fitted[TfidfLogistic.name]
        readers = [shared.fitted[name] for name in READERS if name in shared.fitted]
        self.fit_seconds = sum(model.fit_seconds or 0.0 for model in (linear, *readers))
        self.pipelines = {TfidfLogistic.name: linear.pipelines["model"]}
        for reader in readers:
            self.pipelines |= reader.pipelines
            self.encodings |= reader.encodings
        self.encoders, self.has_probabilities = shared.encoders, True
        return self

    @classmethod
    def fits(cls, output: AnyOutput, shared: Shared) -> bool:
        return super().fits(output, shared) and any(name in shared.fitted for name in READERS)
