"""Materializes an asset: fixes the run's inputs, runs the step, and reports to Dagster, MLflow and the progress file."""

import base64
import json
import math
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import dagster as dg
import jmespath

from finetune_pipeline.data.examples import examples_of
from finetune_pipeline.data.split.splitting import SplitFacts
from finetune_pipeline.engine.files import digest_file, read_json
from finetune_pipeline.engine.graph import pinned_inputs
from finetune_pipeline.engine.step import RunInputs, Step
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.escaping import printable_value
from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.jobs import Job, TrainJob
from finetune_pipeline.orchestration.release import is_registered, present_inputs, release
from finetune_pipeline.orchestration.resources import Compute, is_stopping
from finetune_pipeline.pipeline import PIPELINE, base_model_folder
from finetune_pipeline.progress import Reminders, tell
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.mlflow_store import TrackingError
from finetune_pipeline.tracking.step_run import StepRun
from finetune_pipeline.tracking.tracking import Tracking
from finetune_pipeline.trainers import preflight

PAGES = {"report_page": "report.html", "audit_page": "audit.html", "drift_page": "drift.html"}
"""Pages in the artifact that Dagster's metadata links to."""
NOTES = "notes"
"""Metadata of a step that was stopped: what it leaves behind, such as a training job that was bought."""


def _inputs_of(context: dg.AssetExecutionContext, task: Task, store: ArtifactStore, tracking: Tracking) -> RunInputs:
    """Return the inputs that the run (or the run it re-executes) began with."""
    run = context.op_execution_context.run

    def collect() -> RunInputs:
        trains = dg.AssetKey([*context.asset_key.path[:-1], "adapter"]) in _selected(context)
        if trains and (findings := errors(preflight(task.spec, task.folder, base_model_folder(task, store)))):
            raise FindingsError(findings)
        return present_inputs(task, store, tracking)

    return pinned_inputs(store, task, run.root_run_id or run.run_id, collect)


def _selected(context: dg.AssetExecutionContext) -> Set[dg.AssetKey]:
    """Return the keys of the assets that the run makes."""
    return context.op_execution_context.job_def.asset_layer.selected_asset_keys


def materialize(
    context: dg.AssetExecutionContext,
    task: Task,
    step: Step,
    store: ArtifactStore,
    tracking: Tracking,
    compute: Compute,
) -> tuple[Artifact, dict[str, Any]]:
    """Make (or find) one step's artifact. Returns it with the metadata to show in Dagster."""
    if is_stopping(context.op_execution_context):
        raise dg.Failure("the run was cancelled", allow_retries=False)
    name, run_inputs = step.name, _inputs_of(context, task, store, tracking)
    version = PIPELINE.versions(task, run_inputs, store)[name]
    existing = PIPELINE.find(name, task, run_inputs, store)

    def is_valid(artifact: Artifact) -> bool:
        return name != "model_version" or is_registered(tracking, artifact)

    reused = existing is not None and step.is_complete(existing) and is_valid(existing)
    tell(name, "unchanged" if reused and not step.view_of else "begins")
    with tracking.step(context, task.name, name, version, reused=reused) as run:
        follow = history_follower(run, context.log.warning)

        def launch(job: Job) -> dict[str, Any]:
            steps_before = job.steps_before if isinstance(job, TrainJob) else 0
            return compute.launch(context, job, on_tick=lambda: follow(job.work, steps_before))

        parameters = PIPELINE.settings(name, task, run_inputs, store)
        run.log_params({"version": version, **parameters})
        try:
            artifact = PIPELINE.run(
                name,
                task,
                run_inputs,
                store,
                launch,
                lambda request: release(tracking, request, run.run_id),
                is_valid,
                lambda folder: follow(folder, 0),
            )
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as interrupt:
            if context.op_execution_context.op_def.retry_policy is None:
                raise
            # re-raising the interrupt would make the retry policy start a new attempt
            notes = "\n".join(getattr(interrupt, "__notes__", []))
            message, left = f"{name} was stopped by a signal\n{notes}".strip(), {NOTES: notes} if notes else {}
            raise dg.Failure(message, metadata=left, allow_retries=False) from interrupt
        facts, metrics = _shown_facts(step, artifact), metrics_of(step, artifact)
        run.log_metrics(metrics)
        _send_history(run, artifact.folder)
        _log_datasets(run, step, task, run_inputs, store)
        if step.run_metrics and all(key.path[:-1] == context.asset_key.path[:-1] for key in _selected(context)):
            run.parent.set_tags({"finetune.task": task.name, **_outcome_tags(artifact)})
            run.parent.log_params({f"{step.group}.{name}": value for name, value in parameters.items()})
            run.parent.log_metrics({name: metrics[name] for name in step.run_metrics if name in metrics})
            _log_datasets(run.parent, step, task, run_inputs, store)
        for file in step.shows:
            if (artifact.folder / file).exists():
                run.log_artifact(artifact.folder / file)
        run.set_tags({"artifact_folder": str(artifact.folder), **_outcome_tags(artifact)})
        metadata = as_metadata({**facts, "reused": artifact.reused, "folder": artifact.folder, "mlflow": run.url})
        metadata |= _pages(artifact)
        for file in (name for name in step.shows if name.endswith(".html") and (artifact.folder / name).exists()):
            metadata[f"{Path(file).stem}_in_mlflow"] = dg.MetadataValue.url(run.page_of(file))
    tell(name, "done", reused=artifact.reused, sentence=str(artifact.facts.get("sentence", "")))
    return artifact, metadata


def _shown_facts(step: Step, artifact: Artifact) -> dict[str, object]:
    """Return the facts to show in Dagster; for a view, those of its split."""
    if step.split is None:
        hidden = () if step.name == "raw_examples" else ("history", "files")
        shown = {name: value for name, value in _without_quotes(artifact.facts).items() if name not in hidden}
        measured = _measured(artifact)
        return {**shown, "measured": measured} if measured else shown
    facts = artifact.read(SplitFacts)
    return {
        "rows": facts.counts[step.split],
        "per_label": facts.labels[step.split],
        "origins": facts.origins[step.split],
    }


def _measured(artifact: Artifact) -> dict[str, object]:
    """Return the time and memory that a step took in its child process; empty if it needed none."""
    path = artifact.folder / "measured.json"
    return dict(read_json(path)) if path.exists() else {}


def _without_quotes(facts: Mapping[str, object]) -> dict[str, object]:
    """Return facts without comments of people or a judge, which may quote rows."""
    return {
        name: _without_quotes(value) if isinstance(value, Mapping) else value
        for name, value in facts.items()
        if not (name in ("comments", "failures") and isinstance(value, list))
    }


def _pages(artifact: Artifact) -> dict[str, dg.MetadataValue]:
    """Return links to an artifact's pages, its report as Markdown, and its plots as images."""
    folder = artifact.folder
    pages: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.path(folder / file) for name, file in PAGES.items() if (folder / file).exists()
    }
    if (folder / "report.md").exists():  # it contains no texts of rows
        pages["report"] = dg.MetadataValue.md((folder / "report.md").read_text("utf-8"))
    for plot in sorted((folder / "plots").glob("*.svg")):  # Dagster shows an image only inside Markdown
        svg = base64.b64encode(plot.read_bytes()).decode()
        title = plot.stem.replace("_", " ")
        pages[f"plot_{plot.stem}"] = dg.MetadataValue.md(f"![{title}](data:image/svg+xml;base64,{svg})")
    return pages


def _outcome_tags(artifact: Artifact) -> dict[str, str]:
    """Return MLflow tags with the verdict, as the run's description, the decision, and thresholds looser than the defaults."""
    facts = artifact.facts
    tags = {"mlflow.note.content": facts.get("verdict"), "finetune.decision": facts.get("decision")}
    tags["finetune.loosened"] = facts.get("loosened")
    return {name: value for name, value in tags.items() if value}


def metrics_of(step: Step, artifact: Artifact) -> dict[str, float]:
    """Return an artifact's metrics for MLflow: numeric facts, nested numbers that the step names, and time and memory."""
    measured = _measured(artifact)
    values = {
        **artifact.facts,
        **{name: jmespath.search(path, artifact.facts) for name, path in step.metrics.items()},
        **{name: measured.get(name) for name in ("seconds", "peak_memory_mib")},
    }
    return {
        name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }


def _send_history(run: StepRun, folder: Path, steps_before: int = 0) -> None:
    """Log the loss curves in a folder's history.jsonl, which may still grow. steps_before: steps of earlier jobs."""
    path = folder / "history.jsonl"
    if path.exists():
        lines = path.read_text("utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]  # the last line may be incomplete
        run.log_history([{**row, "step": row["step"] + steps_before} for row in rows])


def history_follower(run: StepRun, warn: Callable[[str], object]) -> Callable[[Path | None, int], None]:
    """Return a function that logs the loss curves in a job's work folder so far; its other argument: steps of earlier jobs.

    Training continues while MLflow is unreachable: each call also sends what earlier calls could not, and `warn` gets the
    reason at growing intervals.
    """
    reminders = Reminders()

    def follow(work: Path | None, steps_before: int) -> None:
        if work is None:
            return
        try:
            _send_history(run, work, steps_before)
        except TrackingError as error:
            if reminders.due():
                warn(f"training continues, and its losses will be logged later: {error}")

    return follow


def _log_datasets(run: StepRun, step: Step, task: Task, run_inputs: RunInputs, store: ArtifactStore) -> None:
    """Log the splits that the step names as MLflow inputs of the run."""
    splits = PIPELINE.find("splits", task, run_inputs, store) if step.datasets else None
    if splits is None:
        return
    for split in step.datasets:
        path = examples_of(splits.folder, split)
        run.log_dataset(
            f"{task.name}_{split}",
            digest_file(path),
            str(path),
            {"train": "training"}.get(split, split),
            {"num_rows": splits.read(SplitFacts).counts[split], "version": splits.version},
        )


def as_metadata(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Convert every fact for Dagster's metadata, with numbers rounded to four significant figures.

    A name that ends in ``_markdown`` becomes rendered text, rows and groups of plain values become a table, other containers
    JSON. Groups that are all empty are left out, such as the labels per split of a task without labels.
    """
    metadata: dict[str, object] = {}
    for name, value in printable_value(facts).items():
        if name.endswith("_markdown"):
            metadata[name.removesuffix("_markdown")] = dg.MetadataValue.md(str(value))
        elif isinstance(value, str) and value.startswith(("http://", "https://")):
            metadata[name] = dg.MetadataValue.url(value)
        elif isinstance(value, str | int | float | Path):  # Dagster knows their types
            metadata[name] = str(value) if isinstance(value, float) and not math.isfinite(value) else _rounded(value)
        elif value is not None and not _only_empty_groups(value):
            metadata[name] = _table(value) or dg.MetadataValue.json(_rounded(value))
    return metadata


def _only_empty_groups(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(group == {} for group in value.values())


def _rounded(value: Any) -> Any:
    """Round a value's numbers to four significant figures, but keep all digits before the decimal point."""
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.4g}") if abs(value) < 1000 else float(round(value))
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _table(value: Any) -> dg.MetadataValue | None:
    """Convert rows of plain values, or such rows by name, to a table; None for anything else."""
    rows = value
    if isinstance(value, Mapping):
        rows = [
            {"key": name, **(item if isinstance(item, Mapping) else {"value": item})} for name, item in value.items()
        ]
    if not isinstance(rows, list | tuple) or not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    columns = list(dict.fromkeys(str(key) for row in rows for key in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    if any(cell is None for row in cells for cell in row):
        return None
    return dg.MetadataValue.table([dg.TableRecord(dict(zip(columns, row, strict=True))) for row in cells])


def _cell(value: Any) -> str | int | float | bool | None:
    """Return a value for a table cell: an interval becomes text, None an empty cell. None if no cell can represent it."""
    if value is None:
        return ""
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(end, int | float) for end in value):
        return " to ".join(str(_rounded(end)) for end in value)
    rounded: Any = _rounded(value)
    return rounded if isinstance(rounded, str | int | float | bool) else None
