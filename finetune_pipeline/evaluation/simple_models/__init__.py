"""Simple models, the rivals besides prompts. Every module of this package that registers a :class:`~.base.SimpleModel` is part of
the registry.

``fit_simple_models(…)["linear"].save(folder)``, then ``load_simple_model(folder).predict(texts)`` or ``.probabilities(texts)``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TypedDict

from threadpoolctl import threadpool_limits

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.evaluation.simple_models.base import ALONE, SIMPLE_MODELS, NotForTheseRows, Shared, SimpleModel
from finetune_pipeline.evaluation.simple_models.encoders import FoundEncoder
from finetune_pipeline.evaluation.simple_models.fitted import SAVED, KnownEncoder
from finetune_pipeline.spec.outputs import AnyOutput

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

FITTED = "simple_models"
"""Folder of few_shot_baseline that holds a folder for every fitted model."""
BLIND = tuple(name for name, model in SIMPLE_MODELS.items() if model.ignores_input)
"""Simple models that ignore the input."""


class _Saved(TypedDict):
    model: str
    parts: list[str]
    fields: dict[str, list[list[str]]]


def fit_simple_models(
    texts: Sequence[str], answers: Sequence[str], output: AnyOutput, seed: int = 0, shared: Shared = ALONE
) -> dict[str, SimpleModel]:
    """Fit every simple model that can answer in this form, by name. shared.left_out gets the reason of those that have nothing of
    their own to say. Raises ValueError if another cannot be fitted: without it, a candidate would beat the others only."""
    fitted: dict[str, SimpleModel] = {}
    shared = Shared(shared.encoders, fitted, shared.left_out)
    with threadpool_limits(limits=1):  # threads cost such small matrices more than they give
        for name, model in SIMPLE_MODELS.items():
            if model.fits(output, shared):
                began = time.process_time()
                try:
                    each = model().fit(texts, answers, output, seed, shared)
                except NotForTheseRows as reason:
                    shared.left_out[name] = str(reason)
                    continue
                each.fit_seconds = round(time.process_time() - began + (each.fit_seconds or 0.0), 2)
                fitted[name] = each
    return fitted


def load_simple_model(folder: Path, encoders: Mapping[str, KnownEncoder] | None = None) -> SimpleModel:
    """Read a model that :meth:`.base.SimpleModel.save` wrote.

    encoders: Those in memory; others are found when the first text is read, see :class:`.encoders.FoundEncoder`. Raises
    DamagedFile if its description is not what was written.
    """
    saved = read_json(folder / SAVED, _Saved)
    model = SIMPLE_MODELS[saved["model"]].load(folder)
    assert isinstance(model, SimpleModel)
    model.encoders = {
        encoding.source: given
        if (given := (encoders or {}).get(encoding.source)) and dict(given.identity) == dict(encoding.encoder)
        else FoundEncoder(encoding)
        for encoding in model.encodings.values()
    }
    return model


def load_simple_models(folder: Path, encoders: Mapping[str, KnownEncoder] | None = None) -> dict[str, SimpleModel]:
    """Read every model that was saved in a folder below this one, by name, in the order of the registry."""
    return {name: load_simple_model(folder / name, encoders) for name in SIMPLE_MODELS if (folder / name).is_dir()}


__all__ = [
    "BLIND",
    "FITTED",
    "SIMPLE_MODELS",
    "Shared",
    "SimpleModel",
    "fit_simple_models",
    "load_simple_model",
    "load_simple_models",
]
