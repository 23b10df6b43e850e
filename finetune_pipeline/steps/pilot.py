"""BASELINE, for `finetune advise --measure`: trains on growing shares of the rows, and extrapolates to all rows."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from finetune_pipeline.baseline.ladder import Terms, score_rungs
from finetune_pipeline.baseline.ladder_decision import conclusive, no_pilot_needed
from finetune_pipeline.baseline.learning_curve import Pilot, Point
from finetune_pipeline.data.examples import Example, read_examples, sample_examples, write_examples
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import PredictionRow, read_by_model, write_predictions
from finetune_pipeline.jobs import ModelSet
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.rungs import PREDICTIONS, answered_rungs, answers_job, row_sources
from finetune_pipeline.steps.training import merge, train_rows
from finetune_pipeline.trainers import TRAINERS

Rows = Sequence[Row]
PARITY_ROWS = 4
"""Rows for comparing a pilot's merged model with the trained one; the full training has its own comparison."""


def make_pilot(context: StepContext) -> Pilot:
    """Train on growing shares of the rows and answer validation rows, until the curve is conclusive."""
    spec, answered, sources = context.spec, answered_rungs(context), row_sources(context)
    skipped = no_pilot_needed(spec, answered, sources)
    if not TRAINERS[spec.training.trainer].on_this_machine:
        skipped = f"the trainer {spec.training.trainer} charges for every share, and pilots train only on this machine"
    rows, points, stop_reason = read_examples(split_file(context, "train")), [], ""
    rival = score_rungs(spec, answered, Terms({}, {}), sources).rival_rows
    by_share: dict[float, list[PredictionRow]] = {}
    shares = {max(1, round(share * len(rows))): share for share in sorted(spec.ladder.pilot)}
    for count, share in () if skipped else shares.items():
        work = context.builder.work / f"{count}_rows"
        work.mkdir(parents=True, exist_ok=True)
        if not (work / "answers" / "result.json").exists():
            _train_and_ask(context, sample_examples(rows, count, "pilot"), work)
        by_share[share] = read_by_model(work / "answers" / PREDICTIONS)["trained"]
        points.append(_point(spec, share, count, by_share[share], read_json(work / "training.json"), sources))
        say(f"pilot: {count:,} rows: {points[-1].value:.3f} {spec.metric} on validation")
        if stop_reason := conclusive(spec, answered, rival, by_share, sources):
            break
    answers: list[PredictionRow] = [
        {**row, "model": str(share)} for share, share_rows in by_share.items() for row in share_rows
    ]
    write_predictions(context.out / PREDICTIONS, answers)
    return Pilot(skipped=skipped, stopped=stop_reason, points=points)


def _train_and_ask(context: StepContext, rows: Sequence[Example], work: Path) -> None:
    """Train with the task's settings on these rows, merge, and answer validation rows. Finished parts are reused."""
    base, file = context.inputs["base_model"].folder, work / "train.jsonl"
    trained, merged, answers = (work / name for name in ("trained", "merged", "answers"))
    if not (work / "training.json").exists():
        write_examples(file, rows)
        trained.mkdir(exist_ok=True)
        facts = train_rows(context, file, trained, work / "checkpoints", stage="pilot")
        seconds = read_json(trained / "measured.json").get("seconds")
        write_json(work / "training.json", {"steps": facts.steps, "seconds": seconds})
    if not (merged / "result.json").exists():
        shutil.rmtree(merged, ignore_errors=True)
        merged.mkdir()
        merge(context, trained / "adapter", merged, parity_rows=PARITY_ROWS, stage="pilot")
    shutil.rmtree(answers, ignore_errors=True)
    answers.mkdir()
    prefix = merged / "adapter" if (merged / "adapter").exists() else None
    model_set = ModelSet(name="trained", model=base if prefix else merged, adapter=prefix)
    context.launch(answers_job(context, [model_set], split_file(context, "validation"), answers, "pilot"))
    for folder in (trained, merged, work / "checkpoints"):  # a model may need as much disk space as the base
        shutil.rmtree(folder, ignore_errors=True)


def _point(spec: TaskSpec, share: float, count: int, rows: Rows, training: Row, sources: SourceOf) -> Point:
    metric = METRICS[spec.metric]
    value = metric.score(rows, spec.output)
    interval = metric.interval(rows, spec.output, spec.gates.confidence, shared_sources(rows, sources))
    return Point(share=share, rows=count, value=value, interval=interval, **training)
