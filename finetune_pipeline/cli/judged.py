"""Finds the model that a command refers to, and its answers to validation rows."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.cli.output import problem
from finetune_pipeline.data.examples import Example, examples_of, read_examples, write_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.simple_models import load_simple_model
from finetune_pipeline.evaluation.verification import JudgedRow
from finetune_pipeline.jobs import LOG_PROBABILITIES, ModelSet, PredictJob
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import model_folder, served
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.manifest import Source
from finetune_pipeline.models.model_files import classes_of
from finetune_pipeline.orchestration.resources import Compute
from finetune_pipeline.production.released import Released
from finetune_pipeline.report.stored import Evaluated
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import RECORD, SHIPPED, answers_of, decoded_schema_of, release_of
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking

ALIASES = ("candidate", "champion", "previous_champion")


@dataclass(frozen=True)
class Shipped:
    """A registered simple model or prompt.

    Attributes:
        kind: `simple` or `prompt`.
        number: Its version.
        record: Its release (model_version.json).
        folder: Its files.
        report: The evaluation that shipped it.
        base: The base model of its run.
    """

    kind: str
    number: int
    record: Mapping[str, Any]
    folder: Path
    report: Artifact
    base: Artifact


def find_shipped(task: Task, store: ArtifactStore, alias: str | None) -> Shipped | None:
    """Find the requested model if it is a simple model or a prompt; None if it is another one or none is registered.

    Raises ClickException if it cannot be used.
    """
    name, tracking = task.name, Tracking()
    tracking.prepare()
    alias, number = _aliased(tracking, name, alias)
    if number is None:
        return None
    tags = registry.tags_of_release(tracking, name, number, "merged_version")
    kind = tags.get(registry.WINNER_KIND)
    if kind not in ("simple", "prompt"):
        return None
    _refuse_forgotten(name, alias, number, tags)
    if tags.get(registry.GATES) != registry.PASSED:  # the simplest finalist of a run that trained and shipped nothing
        raise click.ClickException(
            f"{alias} (version {number}) was not shipped, so its files are not used: `finetune report {name}` says why"
        )
    release = release_of(store, name, number)
    report = store.find(name, "evaluation_report", release.inputs["evaluation_report"]) if release else None
    merged = store.find(name, "merged_model", tags["merged_version"])
    base = store.find(SHARED, "base_model", merged.inputs["base_model"]) if merged else None
    if release is None or report is None or base is None:
        lost = "release" if release is None else "report" if report is None else "base model"
        raise click.ClickException(
            f"the {lost} of {alias} (version {number}) is gone from the artifact store: run `finetune run {name}`"
        )
    for artifact in (release, report, base):
        store.check(artifact)
    record = read_json(release.path(RECORD))
    return Shipped(kind, number, record, release.path(SHIPPED), report, base)


def _aliased(tracking: Tracking, name: str, alias: str | None) -> tuple[str | None, int | None]:
    """Return an alias and its version: the given one, else champion, else candidate."""
    aliases = registry.aliases(tracking, name)
    alias = alias or next((a for a in (registry.CHAMPION, registry.CANDIDATE) if a in aliases), None)
    return alias, aliases.get(alias) if alias else None


def _refuse_forgotten(name: str, alias: str | None, number: int, tags: Mapping[str, str]) -> None:
    if registry.FORGOTTEN in tags:
        raise click.ClickException(
            f"{alias} (version {number}) was {registry.FORGOTTEN_REASON}: it is not exported\n"
            f"fix: `finetune run {name}` trains a model without them"
        )


def find_source(task: Task, store: ArtifactStore, alias: str | None, purpose: str) -> Source:
    """Find the artifacts of the requested model. purpose: such as `exported`, for the error about a model hosted by its trainer.

    Raises ClickException with the reason if there is no such model."""
    name, tracking = task.name, Tracking()
    tracking.prepare()
    alias, number = _aliased(tracking, name, alias)
    accepted_by = None
    if number is not None:
        tags = registry.tags_of_release(tracking, name, number, "merged_version")
        _refuse_forgotten(name, alias, number, tags)
        version, accepted_by = tags["merged_version"], tags.get(registry.EVALUATION)
        merged = store.find(name, "merged_model", version)
        if merged is None:
            raise click.ClickException(
                f"the merged model {version} of {alias} (version {number}) is gone from the artifact store"
            )
    elif alias:
        raise click.ClickException(
            f"{name} has no {alias}: run `finetune run {name}`, or leave --alias out for the model that is registered"
        )
    elif merged_models := [model for model in store.all_versions(name, "merged_model") if not model.skipped]:
        merged = merged_models[-1]
        problem(f"no model of {name} is registered; using the one trained last ({merged.version})")
    else:
        raise click.ClickException(f"{name} has no trained model yet: run `finetune run {name}`")
    adapter = store.find(name, "adapter", merged.inputs["adapter"])
    base = store.find(SHARED, "base_model", merged.inputs["base_model"])
    if adapter is None or base is None:
        lost_step = "adapter" if adapter is None else "base_model"
        raise click.ClickException(
            f"the {lost_step} {merged.inputs[lost_step]} of this model is gone from the artifact store: run `finetune run {name}`"
        )
    for artifact in (merged, adapter, base):
        store.check(artifact)
    if hosted := read_hosted(merged.folder):
        raise click.ClickException(hosted.cannot(purpose))
    released = store.newest(name, "model_version", merged_model=merged.version)
    report = store.find(name, "evaluation_report", accepted_by) if accepted_by else None
    report = report or store.newest(name, "evaluation_report", merged_model=merged.version)
    if report is not None:
        store.check(report)
    if number is None and released is not None:
        number = released.read(Released).model_version
    card, schema = task.spec.card, task.spec.decoded_schema
    if released is not None:  # as it was judged, whatever the task declares now
        schema = decoded_schema_of(released)
    evaluated = report.read(Evaluated).record(report.version) if report else None
    return Source(name, task.spec.description, card, merged, adapter, base, report, evaluated, number, schema)


def judged_rows(task: Task, store: ArtifactStore, source: Source | Shipped, most: int) -> list[JudgedRow]:
    """Return validation rows of the model's run with its answers, cached or computed now as in the evaluation. Those of a
    classifier have the log-probabilities of its classes.

    Raises ClickException if there are no such rows.
    """
    if isinstance(source, Shipped):
        splits = str(source.record["dataset_version"])
    else:
        splits = source.merged.inputs.get("validation_split", "")
    split = store.find(task.name, "splits", splits)
    if split is None:
        raise click.ClickException(
            f"the validation rows of this model are gone from {store.root}: run `finetune run {task.name}`"
        )
    rows = read_examples(examples_of(store.check(split).folder, "validation"))
    texts = [e for e in rows if not e.tools and not any("tool_calls" in message for message in e.messages)]
    examples = sorted(texts, key=lambda e: e.id)[:most]
    if not examples:
        raise click.ClickException(f"no validation row of {task.name} has a text answer: tool calls are not compared")
    return [
        JudgedRow(example.prompt_messages, answer, example.answer)
        for example, answer in zip(examples, _answers(task, store, source, examples), strict=True)
    ]


def _answers(task: Task, store: ArtifactStore, source: Source | Shipped, examples: Sequence[Example]) -> list[Answer]:
    if isinstance(source, Shipped):
        if source.kind == "simple":
            texts = load_simple_model(source.folder).predict([example.user_text for example in examples])
            return [Answer(text, "ok" if text.strip() else "empty") for text in texts]
        model_set = ModelSet(name="candidate", model=source.base.folder, stored=source.folder)
        limit, precision = source.record["max_new_tokens"], source.record["precision"]
    else:
        model = served(source.merged, source.base)
        schema = source.json_schema
        model_set = ModelSet(
            name="candidate",
            model=model.model,
            adapter=model.adapter,
            restricted=schema,
            constrained=schema is not None,
        )
        serving = source.model.serving
        limit, precision = serving.max_new_tokens, serving.precision
    with tempfile.TemporaryDirectory(prefix="finetune-verify-") as folder:
        out = Path(folder)
        write_examples(out / "examples.jsonl", examples)
        job = PredictJob(
            sets=[model_set],
            examples=out / "examples.jsonl",
            labels=classes_of(model_folder(model_set.model)),
            max_new_tokens=limit,
            batch_size=task.spec.baseline.batch_size,
            answers=answers_of(store),
            precision=precision,
            out=out,
            stage="verify",
            log_probabilities=True,
        )
        Compute().launch(None, job)
        rows, token_logs = read_predictions(out / "predictions.parquet"), read_rows(out / LOG_PROBABILITIES)
    return [
        Answer(
            row["text"],
            row["status"],
            row["error"],
            row["label_scores"],
            prompt_tokens=row["prompt_tokens"],
            log_probabilities=logs["log_probabilities"],
        )
        for row, logs in zip(rows, token_logs, strict=True)
    ]
