"""The plots of the evaluation report as files of their own, for Dagster's metadata and MLflow's artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.report import plots, sentences, tables


def report_plots(evaluation: Mapping[str, Any]) -> dict[str, str]:
    """SVG documents by name (models, gains, learning_curve); those without anything to show are left out."""
    axis = f"gain of the fine-tuned model, points of {sentences.metric_name(evaluation)}"
    training = evaluation["training"]
    drawn = {
        "models": plots.models_plot(evaluation["models"], evaluation["metric"]),
        "gains": plots.gains_plot(evaluation["comparisons"], tables.OTHERS, axis),
        "learning_curve": plots.learning_curve(training.get("history") or [], training.get("best_step")),
    }
    return {name: plots.standalone(svg) for name, svg in drawn.items() if svg}
