"""What every asset does: fix the run's world, run the plain step, and tell Dagster, MLflow and the progress file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from finetune_pipeline.data.examples import examples_of
from finetune_pipeline.engine.step import World, pinned_world
from finetune_pipeline.engine.store import Artifact, digest_file, read_json
from finetune_pipeline.findings import errors
from finetune_pipeline.orchestration.compute import Compute
from finetune_pipeline.orchestration.job_failures import AUDIT_PAGE
from finetune_pipeline.orchestration.metadata import as_metadata, as_picture, numbers
from finetune_pipeline.orchestration.release import present_world, release
from finetune_pipeline.orchestration.store import Store
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.planning.preflight import preflight
from finetune_pipeline.progress import tell
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.baseline import made_base
from finetune_pipeline.tracking.tracking import StepRun, Tracking

DATASETS = {
    "splits": [
        ("train", "training"),
        ("validation", "validation"),
        ("test", "test"),
    ],
}
"""Which splits are data sets, and in what role."""
USES = {
    "few_shot_baseline": ("validation",),
    "adapter": ("train", "validation"),
    "test_predictions": ("test",),
    "splits": ("train", "validation", "test"),
}
SHOWN = ("plots", "gates.json", "history.jsonl", "plan.json", "decision.json", "model_version.json")
"""Files logged to MLflow: figures, settings and verdicts. Whatever holds texts of rows stays in the artifact store alone, so
that forgetting a person needs no search of databases that belong to others."""
PAGES = {"report_page": "report.html", "audit_page": AUDIT_PAGE, "drift_page": "drift.html"}
"""Pages in the artifact that Dagster's metadata points to."""


def world_of(context: Any, task: Task, store: Store, tracking: Tracking) -> World:
    """The world the run (or the run it re-executes) began with."""
    op_context = getattr(context, "op_execution_context", context)
    run = op_context.run

    def look() -> World:
        if _trains(op_context, task):
            found = errors(preflight(task.spec, task.folder, made_base(task, store.artifacts())))
            if found:
                told = "\n".join(map(str, found))
                raise dg.Failure(f"{task.name} cannot be trained like this:\n{told}", allow_retries=False)
        return present_world(task, store, tracking)

    return pinned_world(store.artifacts(), task, run.root_run_id or run.run_id, look)


def _trains(context: Any, task: Task) -> bool:
    """Whether the run this step belongs to is to make an adapter."""
    return dg.AssetKey([task.name, "adapter"]) in context.job_def.asset_layer.selected_asset_keys


def materialize(
    context: dg.AssetExecutionContext, task: Task, name: str, store: Store, tracking: Tracking, compute: Compute
) -> tuple[Artifact, dict[str, dg.MetadataValue]]:
    """Make (or find) one step's artifact. Returns it with the metadata to show in Dagster."""
    artifacts, world = store.artifacts(), world_of(context, task, store, tracking)
    version = PIPELINE.versions(task, world, artifacts)[name]
    found = PIPELINE.find(name, task, world, artifacts)
    stands = found is not None and PIPELINE.steps[name].whole(found)
    tell(name, "unchanged" if stands else "begins")
    with tracking.step(context, task.name, name, version, reused=stands) as run:

        def launch(job: Mapping[str, Any]) -> dict[str, Any]:
            return compute.launch(context, job, on_tick=lambda: _send_history(run, job))

        run.log_params({"version": version, **_settings(task, name, world)})
        artifact = PIPELINE.run(
            name, task, world, artifacts, launch, lambda request: release(tracking, request, run.run_id)
        )
        measured = read_json(artifact.folder / "measured.json") if (artifact.folder / "measured.json").exists() else {}
        run.log_metrics({k: v for k, v in numbers({**artifact.facts, "measured": measured}).items()})
        _send_history(run, {"work": str(artifact.folder)})
        _log_datasets(run, task, name, world, store)
        for file in SHOWN:
            if (artifact.folder / file).exists():
                run.log_artifact(artifact.folder / file, file if (artifact.folder / file).is_dir() else None)
        run.set_tags({"artifact_folder": str(artifact.folder)})
        if "verdict" in artifact.facts:
            run.set_tags({"mlflow.note.content": artifact.facts["verdict"]})
        shown = _without_quotes(artifact.facts)
        shown = {k: v for k, v in shown.items() if k not in ("history", "files") or name == "raw_examples"}
        metadata = as_metadata(
            {
                **shown,
                **({"measured": measured} if measured else {}),
                "reused": artifact.reused,
                "folder": artifact.folder,
                "mlflow": run.url,
            }
        )
        for key, page in PAGES.items():
            if (artifact.folder / page).exists():
                metadata[key] = dg.MetadataValue.path(artifact.folder / page)
        for plot in sorted((artifact.folder / "plots").glob("*.svg")):
            metadata[f"plot_{plot.stem}"] = as_picture(plot.read_bytes(), plot.stem.replace("_", " "))
    tell(name, "done", reused=artifact.reused, sentence=str(artifact.facts.get("sentence", "")))
    return artifact, metadata


def _without_quotes(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts without what people or a judge wrote about rows, which may quote them."""
    return {
        name: _without_quotes(value) if isinstance(value, Mapping) else value
        for name, value in facts.items()
        if not (name in ("comments", "failures") and isinstance(value, list))
    }


def _settings(task: Task, name: str, world: World) -> dict[str, Any]:
    settings = PIPELINE.steps[name].settings(task.spec, world)
    return dict(settings) if isinstance(settings, Mapping) else {"settings": json.dumps(settings, default=str)[:5000]}


def _send_history(run: StepRun, job: Mapping[str, Any]) -> None:
    """Loss curves while they grow: complete lines of history.jsonl only."""
    path = Path(str(job.get("work") or "")) / "history.jsonl"
    if job.get("work") and path.exists():
        lines = path.read_text("utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        run.log_history([{**row, "step": row["step"] + job.get("steps_before", 0)} for row in rows])


def _log_datasets(run: StepRun, task: Task, name: str, world: World, store: Store) -> None:
    if name not in USES:
        return
    splits = PIPELINE.find("splits", task, world, store.artifacts())
    if splits is None:
        return
    for split, role in DATASETS["splits"]:
        if split in USES[name]:
            path = examples_of(splits.folder, split)
            run.log_dataset(
                f"{task.name}_{split}",
                digest_file(path),
                str(path),
                role,
                {"num_rows": splits.facts["counts"][split], "version": splits.version},
            )
