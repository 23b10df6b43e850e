"""Base class and registry of the simple models, which are fitted in seconds. Every candidate must beat them.

A simple model is one module of this package with one class::

    from collections.abc import Sequence

    from finetune_pipeline.evaluation.simple_models.base import ALONE, Shared, SimpleModel, register
    from finetune_pipeline.evaluation.simple_models.features import constant
    from finetune_pipeline.spec.outputs import AnyOutput

    @register
    class Longest(SimpleModel):
        name, title, kinds, rank = "longest", "The longest training answer", ("text",), 15

        def fit(
            self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
        ) -> SimpleModel:
            self.pipelines = {"model": constant(texts, [max(answers, key=len)] * len(answers))}
            return self
"""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypeVar

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.evaluation.simple_models.fitted import OWN_PARTS, SAVED, Encoding, Fitted, Keys, KnownEncoder
from finetune_pipeline.evaluation.simple_models.skops_files import write_skops
from finetune_pipeline.spec.outputs import AnyOutput

VERSIONS = ("scikit-learn", "skops", "numpy", "scipy")


class NotForTheseRows(Exception):
    """Raised by `fit` where a model would have nothing of its own to say: it is left out, and the reason is said."""


@dataclass(frozen=True)
class Shared:
    """What simple models share while they are fitted: encoders by source, the models fitted before, and why others were left
    out, by name."""

    encoders: Mapping[str, KnownEncoder] = field(default_factory=dict)
    fitted: Mapping[str, SimpleModel] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


ALONE = Shared()


class SavedModel(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """What a saved model's folder says of it (SAVED).

    Attributes:
        model: Its name.
        parts, fields, encodings, probabilities: See Fitted.
        versions: Of the packages that it needs.
    """

    model: str
    title: str
    parts: list[str]
    fields: dict[str, list[Keys]]
    encodings: dict[str, Encoding]
    probabilities: bool
    versions: dict[str, str]


class SimpleModel(Fitted, ABC):
    """A model fitted on (text, answer) pairs.

    Attributes:
        kinds: Kinds of output it can answer in.
        rank: Reports show the models in this order, the simplest first; they are fitted in it, too.
        ignores_input: Whether it answers every text alike.
        packages: Packages that answering needs, besides VERSIONS.
        fit_seconds: CPU seconds of fitting, the reading of texts by an encoder included; None if it was fitted before.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ("labels", "json", "text")
    rank: ClassVar[int]
    ignores_input: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ()
    fit_seconds: float | None = None

    @abstractmethod
    def fit(
        self, texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
    ) -> SimpleModel:
        """Fit on training rows and return self. Raises ValueError without rows, or if no text has features, and
        NotForTheseRows."""

    @classmethod
    def fits(cls, output: AnyOutput, shared: Shared) -> bool:
        """Whether it can answer in this form, with these encoders and models."""
        return output.kind in cls.kinds

    def save(self, folder: Path) -> SavedModel:
        """Write the fitted model into a folder, without pickle: `load_simple_model` reads it. Returns its description."""
        folder.mkdir(parents=True, exist_ok=True)
        for part, pipeline in self.pipelines.items():
            if part in OWN_PARTS:
                pipeline.save(folder)
            else:
                write_skops(folder / f"{part}.skops", pipeline)
        saved = SavedModel(
            model=self.name,
            title=self.title,
            parts=list(self.pipelines),
            fields=self.fields,
            encodings=self.encodings,
            probabilities=self.has_probabilities,
            versions={name: importlib.metadata.version(name) for name in (*VERSIONS, *self.packages)},
        )
        write_json(folder / SAVED, saved.to_json(), durable=False)
        return saved


SIMPLE_MODELS: dict[str, type[SimpleModel]] = {}
"""All simple models by name, in the order reports show them."""
Model = TypeVar("Model", bound=type[SimpleModel])


def register(model: Model) -> Model:
    """Add a model to SIMPLE_MODELS."""
    SIMPLE_MODELS[model.name] = model
    ordered = sorted(SIMPLE_MODELS.items(), key=lambda item: item[1].rank)
    SIMPLE_MODELS.clear()
    SIMPLE_MODELS.update(ordered)
    return model
