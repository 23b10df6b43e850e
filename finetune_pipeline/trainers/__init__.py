"""Trainers: the places where training runs. Every module of this package that registers a :class:`~.base.Trainer` adds one to
task.yaml, and so does every installed package with an entry point of the group ``finetune_pipeline.trainers``."""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from finetune_pipeline.trainers.base import TRAINERS, Trainer, TrainingOrder, preflight, register, train

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
for _entry in entry_points(group="finetune_pipeline.trainers"):
    try:
        _entry.load()
    except Exception as error:
        _package = _entry.dist.name if _entry.dist else _entry.value
        raise ImportError(f"the trainer {_entry.name} of the package {_package} cannot be loaded: {error}") from error

__all__ = ["TRAINERS", "Trainer", "TrainingOrder", "preflight", "register", "train"]
