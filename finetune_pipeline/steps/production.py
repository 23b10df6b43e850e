"""LOGS and PRODUCTION: logged answers, drift from the training data, and the retraining decision."""

import time
from collections.abc import Iterable, Sequence

from finetune_pipeline.data.examples import Example, examples_of, read_examples
from finetune_pipeline.engine.graph import MissingInput
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.predictions import SIMPLE, by_model, of_model, read_predictions
from finetune_pipeline.evaluation.production_rows import LoggedRow, read_logged_rows
from finetune_pipeline.evaluation.regression_ledger import outcomes_of
from finetune_pipeline.evaluation.rivals import restricted_rows
from finetune_pipeline.evaluation.stored_prompt import read_stored_prompt
from finetune_pipeline.production.drift import DriftReport, drift_report, moment, reference_at_training
from finetune_pipeline.production.log_intake import LOCK
from finetune_pipeline.production.log_merging import LogFacts, merge_lines, write_logs
from finetune_pipeline.production.log_store import log_store
from finetune_pipeline.production.released import Released
from finetune_pipeline.production.retraining import Decision, Evidence, decide_retraining, measure_curve
from finetune_pipeline.production.signals import Reference
from finetune_pipeline.production.used_rows import log_row_ids, rows_of_data
from finetune_pipeline.report.drift_page import drift_page
from finetune_pipeline.report.page import page_html
from finetune_pipeline.steps.earlier_runs import champion_files


def make_production_logs(context: StepContext) -> LogFacts:
    """Write the production rows as of the run's start; later ones wait for the next run."""
    try:
        with context.store.lock(context.task.name, LOCK):
            rows = log_store(context.task, context.store).rows(context.run_inputs.logs)
    except LookupError as error:
        raise RuntimeError(f"{context.task.name}: {error}; run it again") from error
    return write_logs(context.spec, merge_lines(rows), context.out)


def make_drift_report(context: StepContext) -> DriftReport:
    """Compare production with the champion's training data and test answers.

    Rows logged before these data were collected are left out.
    """
    splits = context.store.find(context.task.name, "splits", context.run_inputs.trained_on)
    if splits is None:
        raise MissingInput(
            f"the training data to compare production with (splits {context.run_inputs.trained_on}) is not in the artifact "
            f"store: run `finetune run {context.task.name}` first"
        )
    train = read_examples(examples_of(splits.folder, "train"))
    rows = read_logged_rows(context.inputs["production_logs"].path("rows.jsonl"))
    predictions = _champions_predictions(context)
    answers = [e.answer for e in train] if predictions is None else [r["text"].strip() for r in predictions]
    rows_name = "the champion's training rows" if context.run_inputs.champion else "the training rows"
    reference_name = f"{rows_name} and {'their answers' if predictions is None else 'its answers on the test set'}"
    reference = Reference([e.user_text for e in train], answers)
    since = _newest_training_time(train, rows) if context.run_inputs.champion else None  # no champion: every row is new
    learned = None
    if since is not None:
        used = rows_of_data(context.store, context.task.name, context.run_inputs.trained_on)
        examples = read_examples(context.inputs["production_logs"].path("examples.jsonl"))
        ids = log_row_ids(e for e in examples if e.id in used)
        learned = reference_at_training(context.spec, rows, since, ids, context.spec.retraining.rows_after_drift)
    other_versions = _other_versions(context)
    report = drift_report(
        context.spec,
        reference,
        rows,
        context.out,
        since,
        reference_name,
        learned,
        other_versions,
        context.run_inputs.trained_on,
    )
    page = drift_page(context.task.name, context.spec.drift.false_alarms, report)
    (context.out / "drift.html").write_text(page_html(page), "utf-8")
    return report


def _other_versions(context: StepContext) -> set[str]:
    """Return the numbers of model versions other than the champion's; empty if no promoted version has the champion's data."""
    store, task = context.store, context.task.name
    same_data: set[str] = set()
    other_versions: set[str] = set()
    for version in store.all_versions(task, "model_version"):
        report = store.find(task, "evaluation_report", version.inputs["evaluation_report"])
        released = version.read(Released)
        is_same_data = report and report.inputs["splits"] == context.run_inputs.trained_on and released.promoted
        (same_data if is_same_data else other_versions).add(str(released.model_version))
    return other_versions - same_data if same_data else set()


def _newest_training_time(train: Sequence[Example], rows: Iterable[LoggedRow]) -> float | None:
    """Return the time of the newest production row in the training split; None if there is none.

    A row from the future, whose clock was wrong, does not count: all later rows would be left out.
    """
    used = log_row_ids(train)  # of corrections, and of a teacher's answers in the logs
    now = time.time()
    return max((at for row in rows if row["id"] in used and (at := moment(row)) <= now), default=None)


def _champions_predictions(context: StepContext) -> Sequence[Row] | None:
    """Return the champion's answers on its own test; None without a champion or its predictions."""
    champion = context.run_inputs.champion
    if champion is None:
        return None
    versions = champion["merged"], context.run_inputs.trained_on
    for artifact in context.store.all_versions(context.task.name, "test_predictions"):
        if (artifact.inputs["merged_model"], artifact.inputs["test_split"]) == versions:
            rows = read_predictions(artifact.path("predictions.parquet"))
            return _of_kind(context, rows, context.run_inputs.champion_kind, champion.get("name", ""))
    return None


def _of_kind(context: StepContext, rows: Sequence[Row], kind: str, name: str) -> Sequence[Row]:
    """Return the rows of a run's predictions that are the answers of the model that it shipped."""
    if kind == "simple":
        return of_model(rows, SIMPLE + name)
    if kind != "prompt":
        return of_model(rows, "candidate")
    if read_stored_prompt(champion_files(context)).mode == "free":
        return of_model(rows, "base")
    return restricted_rows(by_model(rows), "base", context.spec.output) or ()


def make_retraining_decision(context: StepContext) -> Decision:
    report = context.inputs["drift_report"].read(DriftReport)
    return decide_retraining(context.spec, report, _evidence(context), context.out)


def _evidence(context: StepContext) -> Evidence:
    """Collect the evidence for the retraining decision. The learning curve is measured only for labels and with new rows."""
    store, task, trained_on = context.store, context.task.name, context.run_inputs.trained_on
    examples = read_examples(context.inputs["production_logs"].path("examples.jsonl"))
    used = rows_of_data(store, task, trained_on)
    usable = sum(e.id not in used for e in examples)
    champion, splits = context.run_inputs.champion, store.find(task, "splits", trained_on)
    if champion is None or splits is None or not usable:
        return Evidence(usable)
    predictions = _champions_predictions(context)
    if not context.spec.labels or predictions is None:
        return Evidence(usable)
    outcomes = outcomes_of(predictions, context.spec.output)
    train, validation = (
        [(e.user_text, e.answer) for e in read_examples(examples_of(splits.folder, name))]
        for name in ("train", "validation")
    )
    wrong_share = 1 - sum(outcomes.values()) / max(len(outcomes), 1)
    return Evidence(usable, wrong_share, measure_curve(train, validation, context.spec.split.seed))
