"""Logistic regression on vectors of texts."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel
from finetune_pipeline.evaluation.simple_models.features import check_rows, constant
from finetune_pipeline.evaluation.simple_models.fitted import Encoding
from finetune_pipeline.spec.outputs import AnyOutput

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation (scikit-learn's C) that is tried, strongest regularisation first."""
USUAL_STRENGTH = STRENGTHS[1]
FOLDS = 3
ENCODED_ROWS = 2_000
"""Maximum training rows that are turned into vectors, evenly spaced: two minutes of a CPU with 135M parameters."""


class VectorRegression(SimpleModel):
    """Logistic regression on the mean of the tokens' vectors in one layer of an encoder, which the training rows choose.

    Attributes:
        reads: The encoder, by its name in Shared.encoders.
    """

    reads: ClassVar[str]
    kinds = ("labels",)
    packages = ("torch", "transformers", "tokenizers")

    @staticmethod
    @abstractmethod
    def layers(depth: int) -> list[int]:
        """Return the layers to try, of an encoder with this many."""

    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        encoder = shared.encoders[self.reads]
        layers, rows = self.layers(encoder.depth), encoded_rows(len(texts))
        vectors = encoder.vectors([texts[i] for i in rows], layers)
        kind, self.pipelines[self.name] = vector_pipeline(vectors, [answers[i] for i in rows], seed)
        self.encodings = {self.name: Encoding(self.reads, layers[kind], encoder.identity)}
        self.encoders, self.has_probabilities = shared.encoders, True
        return self

    @classmethod
    def fits(cls, output: AnyOutput, shared: Shared) -> bool:
        return super().fits(output, shared) and cls.reads in shared.encoders


def encoded_rows(rows: int) -> range:
    """Return the indices of the training rows that are turned into vectors."""
    return range(0, rows, max(1, -(-rows // ENCODED_ROWS)))


def vector_pipeline(vectors: np.ndarray, labels: Sequence[str], seed: int) -> tuple[int, Any]:
    """Fit on one of several kinds of vectors, [rows, kinds, width]: the kind, then the strength are chosen by cross-validation on
    these rows, with folds shuffled by `seed`. Returns (the kind, the fitted pipeline)."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    check_rows(list(vectors), labels)
    if len(set(labels)) == 1:
        return 0, constant(list(vectors[:, 0]), labels)
    kind, strength = vectors.shape[1] // 2, USUAL_STRENGTH
    folds = min(FOLDS, *Counter(labels).values())
    if folds > 1:
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)

        def search(of_kind: int, strengths: Sequence[float]) -> Any:
            grid = {"logisticregression__C": list(strengths)}
            return GridSearchCV(_pipeline(), grid, cv=splits, refit=False).fit(vectors[:, of_kind], labels)

        if vectors.shape[1] > 1:
            kind = max(range(vectors.shape[1]), key=lambda of_kind: search(of_kind, [USUAL_STRENGTH]).best_score_)
        strength = search(kind, STRENGTHS).best_params_["logisticregression__C"]
    pipeline = _pipeline().set_params(logisticregression__C=strength)
    return kind, pipeline.fit(vectors[:, kind], list(labels))


def _pipeline() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
