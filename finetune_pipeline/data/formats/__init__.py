"""Raw formats. Every module of this package that defines a :class:`~.base.RawFormat` is part of the registry."""

from importlib import import_module
from pkgutil import iter_modules

from finetune_pipeline.data.formats.base import FORMATS, RawFormat, Turns, format_of, read_turns, register

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["FORMATS", "RawFormat", "Turns", "format_of", "read_turns", "register"]
