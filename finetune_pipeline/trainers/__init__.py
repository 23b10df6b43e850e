"""Trainers: the places where training runs. Every module of this package that registers a :class:`~.base.Trainer` adds one to
task.yaml, and so does every installed package with an entry point of the group ``finetune_pipeline.trainers``."""

from importlib import import_module
from pkgutil import iter_modules

from finetune_pipeline.plugins import load_plugins
from finetune_pipeline.trainers.base import TRAINERS, Trainer, TrainingOrder, preflight, register, train

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
load_plugins("trainers", TRAINERS)

__all__ = ["TRAINERS", "Trainer", "TrainingOrder", "preflight", "register", "train"]
