"""Metrics. Every module of this package that registers a :class:`~.base.Metric` is part of the registry, and so is every
installed package's with an entry point of the group ``finetune_pipeline.metrics``."""

from importlib import import_module
from pkgutil import iter_modules

from finetune_pipeline.evaluation.metrics.base import (
    METRICS,
    Gain,
    RowMetric,
    is_right_or_wrong,
    metric_title,
    register,
    score_text,
)
from finetune_pipeline.plugins import load_plugins

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
load_plugins("metrics", METRICS)

__all__ = ["METRICS", "Gain", "RowMetric", "is_right_or_wrong", "metric_title", "register", "score_text"]
