"""Raw formats. Every module of this package that defines a :class:`~.base.RawFormat` is part of the registry, and so is every
installed package's with an entry point of the group ``finetune_pipeline.formats``."""

from importlib import import_module
from pkgutil import iter_modules

from finetune_pipeline.data.formats.base import FORMATS, RawFormat, Turns, format_of, read_turns, register
from finetune_pipeline.plugins import load_plugins

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
load_plugins("formats", FORMATS)

__all__ = ["FORMATS", "RawFormat", "Turns", "format_of", "read_turns", "register"]
