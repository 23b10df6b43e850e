"""What every asset does: fix the run's inputs, run the plain step, and tell Dagster, MLflow and the progress file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.data.summary import markdown, summarise
from finetune_pipeline.engine.graph import pinned_inputs
from finetune_pipeline.engine.step import RunInputs, Step
from finetune_pipeline.engine.store import Artifact, digest_file, read_json
from finetune_pipeline.findings import errors
from finetune_pipeline.orchestration.compute import Compute
from finetune_pipeline.orchestration.metadata import as_metadata, as_picture, numbers
from finetune_pipeline.orchestration.release import made_base, present_inputs, release
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.progress import tell
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking.tracking import StepRun, Tracking
from finetune_pipeline.trainers import preflight

_ROLES = {"train": "training", "validation": "validation", "test": "test"}
"""MLflow's context of a data set, by split."""


PAGES = {"report_page": "report.html", "audit_page": "audit.html", "drift_page": "drift.html"}
"""Pages in the artifact that Dagster's metadata points to."""


def inputs_of(context: Any, task: Task, store: Store, tracking: Tracking) -> RunInputs:
    """The inputs that the run (or the run it re-executes) began with."""
    op_context = getattr(context, "op_execution_context", context)
    run = op_context.run

    def look() -> RunInputs:
        if _trains(op_context, task):
            found = errors(preflight(task.spec, task.folder, made_base(task, store.artifacts())))
            if found:
                problems = "\n".join(map(str, found))
                raise dg.Failure(f"{task.name} cannot be trained like this:\n{problems}", allow_retries=False)
        return present_inputs(task, store, tracking)

    return pinned_inputs(store.artifacts(), task, run.root_run_id or run.run_id, look)


def _trains(context: Any, task: Task) -> bool:
    """Whether the run this step belongs to is to make an adapter."""
    return dg.AssetKey([task.name, "adapter"]) in context.job_def.asset_layer.selected_asset_keys


def materialize(
    context: dg.AssetExecutionContext, task: Task, step: Step, store: Store, tracking: Tracking, compute: Compute
) -> tuple[Artifact, dict[str, dg.MetadataValue]]:
    """Make (or find) one step's artifact. Returns it with the metadata to show in Dagster."""
    artifacts, outside, name = store.artifacts(), inputs_of(context, task, store, tracking), step.name
    version = PIPELINE.versions(task, outside, artifacts)[name]
    found = PIPELINE.find(name, task, outside, artifacts)
    reused = found is not None and step.whole(found)
    tell(name, "unchanged" if reused and not step.view_of else "begins")
    with tracking.step(context, task.name, name, version, reused=reused) as run:

        def launch(job: Mapping[str, Any]) -> dict[str, Any]:
            return compute.launch(context, job, on_tick=lambda: _send_history(run, job))

        run.log_params({"version": version, **_settings(step, task, outside)})
        artifact = PIPELINE.run(
            name, task, outside, artifacts, launch, lambda request: release(tracking, request, run.run_id)
        )
        facts = _facts(step, artifact)
        run.log_metrics(numbers(facts))
        _send_history(run, {"work": str(artifact.folder)})
        _log_datasets(run, step, task, outside, store)
        for file in step.shows:
            if (artifact.folder / file).exists():
                run.log_artifact(artifact.folder / file, file if (artifact.folder / file).is_dir() else None)
        run.set_tags({"artifact_folder": str(artifact.folder)})
        if "verdict" in artifact.facts:
            run.set_tags({"mlflow.note.content": artifact.facts["verdict"]})
        metadata = as_metadata({**facts, "reused": artifact.reused, "folder": artifact.folder, "mlflow": run.url})
        metadata |= _pages(artifact)
    tell(name, "done", reused=artifact.reused, sentence=str(artifact.facts.get("sentence", "")))
    return artifact, metadata


def _facts(step: Step, artifact: Artifact) -> dict[str, Any]:
    """The facts that are shown: of a view, those of its split."""
    if step.split is None:
        measured = artifact.folder / "measured.json"
        facts = {
            k: v
            for k, v in _without_quotes(artifact.facts).items()
            if k not in ("history", "files") or step.name == "raw_examples"
        }
        return facts | ({"measured": read_json(measured)} if measured.exists() else {})
    facts = {"rows": artifact.facts["counts"][step.split], "per_label": artifact.facts["labels"][step.split]}
    if step.split != "test":  # the sealed test is not read for a summary
        facts["summary_markdown"] = markdown(summarise(read_examples(examples_of(artifact.folder, step.split))))
    return facts


def _without_quotes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without what people or a judge wrote about rows, which may quote them."""
    return {
        name: _without_quotes(value) if isinstance(value, Mapping) else value
        for name, value in facts.items()
        if not (name in ("comments", "failures") and isinstance(value, list))
    }


def _pages(artifact: Artifact) -> dict[str, dg.MetadataValue]:
    """Links to an artifact's pages, its report as Markdown, and its plots as pictures."""
    folder = artifact.folder
    pages: dict[str, dg.MetadataValue] = {
        name: dg.MetadataValue.path(folder / file) for name, file in PAGES.items() if (folder / file).exists()
    }
    if (folder / "report.md").exists():  # it holds no texts of rows
        pages["report"] = dg.MetadataValue.md((folder / "report.md").read_text("utf-8"))
    for plot in sorted((folder / "plots").glob("*.svg")):
        pages[f"plot_{plot.stem}"] = as_picture(plot.read_bytes(), plot.stem.replace("_", " "))
    return pages


def _settings(step: Step, task: Task, outside: RunInputs) -> dict[str, Any]:
    settings = step.settings(task.spec, outside)
    return dict(settings) if isinstance(settings, Mapping) else {"settings": json.dumps(settings, default=str)[:5000]}


def _send_history(run: StepRun, job: Mapping[str, Any]) -> None:
    """Loss curves while they grow: complete lines of history.jsonl only."""
    path = Path(str(job.get("work") or "")) / "history.jsonl"
    if job.get("work") and path.exists():
        lines = path.read_text("utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        run.log_history([{**row, "step": row["step"] + job.get("steps_before", 0)} for row in rows])


def _log_datasets(run: StepRun, step: Step, task: Task, outside: RunInputs, store: Store) -> None:
    splits = PIPELINE.find("splits", task, outside, store.artifacts()) if step.datasets else None
    if splits is None:
        return
    for split in step.datasets:
        path = examples_of(splits.folder, split)
        run.log_dataset(
            f"{task.name}_{split}",
            digest_file(path),
            str(path),
            _ROLES[split],
            {"num_rows": splits.facts["counts"][split], "version": splits.version},
        )
