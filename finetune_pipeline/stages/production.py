"""PRODUCTION: what the deployed model answered, whether the world has drifted, and whether to train again."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.split_files import examples_of
from finetune_pipeline.graph import Step, Work
from finetune_pipeline.production.decision import decide_retraining
from finetune_pipeline.production.drift import drift_report
from finetune_pipeline.production.ingest import ingest, logs_digest, read_rows


def make_production_logs(work: Work) -> dict[str, Any]:
    facts = ingest(work.task, work.out)
    if logs_digest(work.task) != work.world.logs:
        raise RuntimeError(f"logs of {work.task.name} grew since this run began; run it again to take them in")
    return facts


def make_drift_report(work: Work) -> dict[str, Any]:
    return drift_report(
        work.spec,
        read_examples(examples_of(work.inputs["splits"].folder, "train")),
        read_rows(work.inputs["production_logs"].path("rows.jsonl")),
        work.out,
    )


def make_retraining_decision(work: Work) -> dict[str, Any]:
    return decide_retraining(
        work.spec, work.inputs["drift_report"].facts, work.inputs["production_logs"].facts, work.out
    )


LOGS_STEP = Step(
    "production_logs", (), "1", lambda s, w: [w.logs, s.labels, s.system_prompt, s.data.scrub], make_production_logs
)
STEPS = [
    Step(
        "drift_report",
        ("production_logs", "splits"),
        "1",
        lambda s, w: [s.labels, s.gates.confidence],
        make_drift_report,
    ),
    Step(
        "retraining_decision",
        ("drift_report", "production_logs"),
        "1",
        lambda s, w: s.logs.model_dump(),
        make_retraining_decision,
    ),
]
