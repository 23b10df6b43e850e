"""Training methods. Each module that registers a :class:`~.base.Method` adds a method to task.yaml."""

from importlib import import_module
from pkgutil import iter_modules

from finetune_pipeline.spec.methods.base import KINDS, METHODS, Kind, Method, kind_of, methods_for, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["KINDS", "METHODS", "Kind", "Method", "kind_of", "methods_for", "register"]
