"""The whole graph: every stage's steps, in the order of the picture."""

from __future__ import annotations

from finetune_pipeline.graph import Graph
from finetune_pipeline.stages import baseline, data, evaluation, production, release, training

PIPELINE = Graph(
    [
        production.LOGS_STEP,
        *data.STEPS,
        baseline.BASE_STEP,
        data.QUALITY_STEP,
        *baseline.STEPS,
        *training.STEPS,
        *evaluation.STEPS,
        *release.STEPS,
        *production.STEPS,
    ]
)
