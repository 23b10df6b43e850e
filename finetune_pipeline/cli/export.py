"""``finetune export TASK``: exports a trained model as a folder that any server loads (--to), or checks that a server serves
it (--verify)."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click

from finetune_pipeline.baseline.prompt_export import PromptManifest, PromptRelease, export_prompt
from finetune_pipeline.baseline.simple_export import SimpleManifest, SimpleSource, export_simple
from finetune_pipeline.cli.judged import ALIASES, Shipped, find_shipped, find_source, judged_rows
from finetune_pipeline.cli.output import DONE, REFUSED, as_json, get_task, problem, tell
from finetune_pipeline.data.split.splitting import SplitFacts
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.class_verification import verify_classes
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, decoding, models_of
from finetune_pipeline.evaluation.finalists import scores_of
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.evaluation.rivals import BaselineScores
from finetune_pipeline.evaluation.simple_models import load_simple_model
from finetune_pipeline.evaluation.stored_prompt import read_stored_prompt
from finetune_pipeline.evaluation.verification import CHANGES, ROWS, required_share, verify
from finetune_pipeline.evaluation.winner import finalist_of
from finetune_pipeline.models.export import check_place, export_adapter, export_model, unfinished
from finetune_pipeline.models.identity import model_folder, served
from finetune_pipeline.models.manifest import Manifest, Source, base_record, folder_control_tokens
from finetune_pipeline.models.model_files import classes_of
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.report.model_card import card_of
from finetune_pipeline.report.shipped_card import shipped_card
from finetune_pipeline.report.stored import read_report
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.baseline import best_simple_model

TARGETS = ("transformers", "vllm", "tgi", "ollama")
SIMPLE_BYTES = 1 << 28
"""Free disk space needed for a simple model."""


@click.command()
@click.argument("task")
@click.option("--to", type=click.Path(path_type=Path), help="A new or empty folder.")
@click.option(
    "--adapter", is_flag=True, help="Only the adapter, for servers that hold one base model and many adapters."
)
@click.option(
    "--for",
    "target",
    type=click.Choice(TARGETS),
    default="transformers",
    show_default=True,
    help="Server that will load it. ollama: also writes a Modelfile.",
)
@click.option("--simple", is_flag=True, help="The best simple model, as scikit-learn pipelines.")
@click.option("--alias", type=click.Choice(ALIASES), help="Alias of the model. Unset: champion, else candidate.")
@click.option(
    "--verify",
    "url",
    metavar="URL",
    help="Instead: check an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.",
)
@click.option("--model", "name", help="--verify: name of the served model. Unset: the only one listed, or the task's.")
@click.option("--rows", type=click.IntRange(min=1), help=f"--verify: validation rows to ask. Unset: {ROWS}.")
@click.option("--key-variable", help="--verify: environment variable with the API key.")
@as_json
def export(
    task: str,
    to: Path | None,
    adapter: bool,
    target: str,
    simple: bool,
    alias: str | None,
    url: str | None,
    name: str | None,
    rows: int | None,
    key_variable: str | None,
) -> int:
    """Write the model of TASK as a folder that any server loads: with export.json (prompt, generation settings, labels,
    origin, digests) and a model card. Nothing is overwritten. Exit code 2: the model differs from the trained one.

    --verify checks that the model at an endpoint is the evaluated one: same prompt, same answers, same end of turn. The
    validation rows are sent there several times. A classifier is asked at /classify, for its probabilities. Exit code 2: it is not,
    or this could not be shown.
    """
    loaded = get_task(task)
    if url:
        if to or adapter or simple or target != "transformers":
            raise click.UsageError("--verify exports nothing: omit --to, --adapter, --for and --simple")
        return _verify(loaded, url, name, rows or ROWS, key_variable, alias)
    if to is None:
        raise click.UsageError("give --to DIR, or --verify URL")
    if name or rows or key_variable:
        raise click.UsageError("--model, --rows and --key-variable belong to --verify")
    to = Path(os.path.abspath(to))
    if simple and (adapter or target != "transformers" or alias):
        raise click.UsageError("--simple exports no language model: omit --adapter, --for and --alias")
    if simple:
        return _export_simple(loaded, to)
    if adapter and target == "ollama":
        raise click.UsageError("--for ollama needs the whole model: omit --adapter")
    check_place(to)
    store = Store().artifacts()
    if shipped := find_shipped(loaded, store, alias):
        if adapter or target != "transformers":
            raise click.UsageError(f"the {shipped.kind} model in service is no trained model: omit --adapter and --for")
        return _export_shipped(loaded, store, shipped, to)
    source = find_source(loaded, store, alias, "exported")
    if not source.model.parity.passed:
        problem(
            f"the model {source.merged.version} differs from the trained model (check merge_parity), so it is not exported\n"
            f"fix: `finetune run {loaded.name}`, or export the adapter of another run with --alias"
        )
        return REFUSED
    card = partial(card_of, source.report)
    manifest = (export_adapter if adapter else export_model)(source, to, card, target)
    base_folder = str(model_folder(source.base.folder))
    facts = {"folder": str(to), "base_folder": base_folder, "manifest": manifest.to_json()}
    tell(facts, *_lines(source, manifest, to))
    return DONE


def _export_simple(task: Task, to: Path) -> int:
    """Refit the best simple model on the training rows and write it."""
    best = best_simple_model(task, Store().artifacts())
    if isinstance(best, str):
        raise click.ClickException(best)
    model, source = best
    with unfinished(to, SIMPLE_BYTES) as folder:
        manifest = export_simple(model, source, folder)
    tell(
        {"folder": str(to), "manifest": manifest.to_json()},
        f"{task.name}: {model.title}, fitted on {source.rows:,} training rows, in {to}",
        *(
            f"  on {where}: {metric_title(name)} {score_text(name, scores.primary.value)} on {scores.n} rows"
            for where, scores in source.scores.items()
            for name in [scores.primary.name]
        ),
        "  how to use it: README.md and predict.py; for programs: simple_model.json",
    )
    return DONE


def _export_shipped(task: Task, store: ArtifactStore, shipped: Shipped, to: Path) -> int:
    """Write the simple model or prompt in service as it was evaluated."""
    report, record = read_report(shipped.report), shipped.record
    finalist = finalist_of(report.winner, report)
    scores = scores_of(report, finalist) if finalist else None
    base_folder = str(model_folder(shipped.base.folder))
    manifest: SimpleManifest | PromptManifest
    with unfinished(to, SIMPLE_BYTES) as folder:
        if shipped.kind == "simple":
            splits = store.find(task.name, "splits", record["dataset_version"])
            rows = splits.read(SplitFacts).counts["train"] if splits else 0
            shown = {"the sealed test": BaselineScores.of(scores.model_dump())} if scores else {}
            source = SimpleSource(
                task.name, task.spec.description, record["dataset_version"], rows, shown, record["verdict"]
            )
            manifest = export_simple(load_simple_model(shipped.folder), source, folder)
            lines = [f"{task.name}, version {shipped.number}: simple model, in {to}"]
        else:
            base = base_record(shipped.base)
            release = PromptRelease.of({**record, "task": task.name, "model_version": shipped.number})
            card = shipped_card(report, report.winner, record["files"], base.id)
            stored = read_stored_prompt(shipped.folder)
            manifest = export_prompt(stored, shipped.folder, base, release, card, folder)
            lines = [
                f"{task.name}, version {shipped.number}: prompt {stored.name!r}, in {to}",
                f"  base model: {base.id}, in {base_folder}",
            ]
    facts = {"folder": str(to), "base_folder": base_folder, "manifest": manifest.to_json()}
    tell(facts, *lines, "  how to use it: README.md")
    return DONE


def _lines(source: Source, manifest: Manifest, to: Path) -> Iterator[str]:
    size = sum(file.bytes for file in manifest.files.values()) / 1e6
    model_kind = "adapter" if manifest.what == "adapter" else f"model in {manifest.dtype}"
    version = f", version {manifest.model_version}" if manifest.model_version else ""
    yield f"{source.task}{version}: {model_kind}, {len(manifest.files)} files of {size:.1f} MB, in {to}"
    evaluation = manifest.evaluation
    if evaluation is None:
        yield "  not yet evaluated on the sealed test"
    elif evaluation.passed:
        yield "  every gate passed"
    else:
        yield f"  gates said no: {', '.join(name for name, status in evaluation.gates.items() if status == 'failed')}"
    if manifest.what == "adapter":
        yield f"  base model: {manifest.base_model.id}, in {model_folder(source.base.folder)}"
    yield "  how to serve and use it: README.md; for programs: export.json"


def _verify(task: Task, url: str, name: str | None, rows: int, key_variable: str | None, alias: str | None) -> int:
    """Compare the model at an endpoint with the evaluated one."""
    store = Store().artifacts()
    shipped = find_shipped(task, store, alias)
    source = shipped or find_source(task, store, alias, "compared with another server")
    number: int | None
    if isinstance(source, Shipped):
        number, limit, same = source.number, int(source.record["max_new_tokens"]), 1.0
        folder, version = source.base.folder if source.kind == "prompt" else None, f"version {source.number}"
    else:
        number, limit = source.model_version, source.model.serving.max_new_tokens
        version, share = source.merged.version, source.model.parity.same_greedy_share
        assert share is not None  # only that of a hosted model is, which find_source refuses
        same = share
        folder = served(source.merged, source.base).model
    try:
        address = url if urlsplit(url).path.strip("/") else f"{url.rstrip('/')}/v1"
        name = name or _default_name(Endpoint(address, task.name, key_variable), task, number)
        # `finetune serve` would log the validation rows as production rows
        unlogged = {"store": False} if name.split(":")[0] == task.name else {}
        schema = source.json_schema if isinstance(source, Source) else None
        endpoint = decoding(Endpoint(address, name, key_variable, body=unlogged), schema)
        judged = judged_rows(task, store, source, rows)
        required = required_share(task.spec.gates.parity_min_agreement, same)
        if folder and (classes := classes_of(model_folder(folder))):
            result = verify_classes(endpoint, judged, classes, required=required)
        else:
            result = verify(
                endpoint,
                judged,
                limit,
                control_tokens=folder_control_tokens(model_folder(folder)) if folder else [],
                required=required,
                changes=max(CHANGES, 1 - same),
                promised=task.spec.automation.max_error is not None,
            )
    except (ValueError, EndpointError) as error:
        raise click.ClickException(str(error.args[0])) from error
    tell(
        {
            "task": task.name,
            "merged_model": None if shipped else version,
            "model_version": number,
            "passed": result.passed,
            **asdict(result),
        },
        f"{result.endpoint}, against {task.name}'s model {version} on {result.rows} validation rows",
        *(f"  {'ok ' if q.passed else 'NO '} {q.name:<8} {q.message}" for q in result.questions),
        *(f"  note: {note}" for note in result.notes),
        "this is the evaluated model" if result.passed else f"not verified: {result.cause}",
    )
    return DONE if result.passed else REFUSED


def _default_name(endpoint: Endpoint, task: Task, number: int | None) -> str:
    """The default model name. Raises ValueError listing the served models."""
    listed = models_of(endpoint)
    for name in (f"{task.name}:{number}", task.name, *(listed if len(listed) == 1 else [])):
        if name in listed:
            return name
    raise ValueError(f"the server lists several models, or none ({', '.join(listed[:20])}): choose one with --model")
