"""The whole graph: every stage's steps, in the order of the picture."""

from __future__ import annotations

from finetune_pipeline.engine.step import Graph
from finetune_pipeline.steps import ability, baseline, data, evaluation, judging, people, production, release, training

PIPELINE = Graph(
    [
        production.LOGS_STEP,
        *data.STEPS,
        baseline.BASE_STEP,
        ability.BASE_STEP,
        data.QUALITY_STEP,
        *baseline.STEPS,
        *training.STEPS,
        *ability.STEPS,
        *evaluation.PREDICTION_STEPS,
        *people.STEPS,
        *judging.STEPS,
        *evaluation.REPORT_STEPS,
        *release.STEPS,
        *production.STEPS,
    ]
)
