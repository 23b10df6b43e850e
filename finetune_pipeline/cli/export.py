"""``finetune export TASK --to DIR``: a trained model as a folder that any server loads."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.baseline.simple_export import export_simple
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, get_task, problem, say
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.models.export import (
    VARIABLE,
    check_place,
    convert,
    export_adapter,
    export_model,
    find_converter,
    unfinished,
)
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import Source
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.report.model_card import card_of
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.baseline import best_simple_model

SIMPLE_BYTES = 1 << 28
"""Room that must be left on the disk for a simple model."""
ALIASES = ("candidate", "champion", "previous_champion")


@click.command()
@click.argument("task")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
@click.option("--adapter", is_flag=True, help="The adapter alone, for servers that hold many beside one base.")
@click.option("--gguf", is_flag=True, help="A GGUF file, too, by llama.cpp's converter.")
@click.option(
    "--llama-cpp",
    type=click.Path(path_type=Path),
    help=f"llama.cpp's folder, or its converter; otherwise what {VARIABLE} names.",
)
@click.option("--simple", is_flag=True, help="The best model without a language model, as scikit-learn pipelines.")
@click.option(
    "--alias", type=click.Choice(ALIASES), help="The model this alias names; otherwise the champion, or the candidate."
)
@as_json
def export(
    task: str,
    to: Path,
    adapter: bool,
    gguf: bool,
    llama_cpp: Path | None,
    simple: bool,
    alias: str | None,
    as_json: bool,
) -> int:
    """Write the model of TASK as a folder that any server loads, with export.json (prompt, generation settings, labels,
    origin, digests) and a model card. Nothing is overwritten. Exit code 2: it is not the model that was trained.
    """
    loaded = get_task(task)
    if simple and (adapter or gguf or alias):
        problem("--simple writes no language model: leave --adapter, --gguf and --alias out")
        return ERROR
    if simple:
        return _export_simple(loaded, to, as_json)
    if adapter and gguf:
        problem("--gguf needs the whole model: leave --adapter out")
        return ERROR
    script = find_converter(llama_cpp) if gguf else None
    check_place(to)
    source = find_source(loaded, Store().artifacts(), alias)
    if isinstance(source, str):
        problem(source)
        return ERROR
    if hosted := read_hosted(source.merged.folder):
        problem(hosted.cannot("exported"))
        return ERROR
    if not source.merged.facts["parity"]["passed"]:
        problem(
            f"the model {source.merged.version} is not what was trained (check merge_parity): it is not exported\n"
            f"fix: `finetune run {loaded.name}`, or export the adapter of another run with --alias"
        )
        return REFUSED
    card = partial(card_of, source.report)
    if adapter:
        manifest = export_adapter(source, to, card)
    else:

        def write(folder: Path, target: Path) -> None:
            assert script is not None
            convert(script, folder, target, name=loaded.name, dtype=source.merged.facts["dtype"])

        manifest = export_model(source, to, card, write if script else None)
    if as_json:
        emit({"folder": str(to.absolute()), "base_folder": str(model_folder(source.base.folder)), "manifest": manifest})
    else:
        _tell(source, manifest, to)
    return DONE


def _export_simple(task: Task, to: Path, as_json: bool) -> int:
    """Fit the best simple model on the training rows again and write it."""
    best = best_simple_model(task, Store().artifacts())
    if isinstance(best, str):
        problem(best)
        return ERROR
    model, source = best
    with unfinished(to, SIMPLE_BYTES) as folder:
        manifest = export_simple(model, source, folder)
    if as_json:
        emit({"folder": str(to.absolute()), "manifest": manifest})
        return DONE
    say(f"{task.name}: {model.title}, fitted on {source.rows:,} training rows, in {to.absolute()}")
    for where, scores in source.scores.items():
        say(f"  on {where}: {scores['primary']['name']} {scores['primary']['value']:.3f} on {scores['n']} rows")
    say("  how to ask it: README.md and predict.py; for programs: simple_model.json")
    return DONE


def find_source(task: Task, store: ArtifactStore, alias: str | None) -> Source | str:
    """The artifacts of the model that is asked for, or why there is none."""
    from finetune_pipeline.tracking import registry
    from finetune_pipeline.tracking.tracking import Tracking

    name, tracking = task.name, Tracking()
    tracking.prepare()
    aliases = registry.aliases(tracking, name)
    alias = alias or next((a for a in (registry.CHAMPION, registry.CANDIDATE) if a in aliases), None)
    number = aliases.get(alias) if alias else None
    if number is not None:
        tags = registry.version_tags(tracking, name, number)
        if registry.FORGOTTEN in tags:
            return (
                f"{alias} (version {number}) was {registry.FORGOTTEN_REASON}: it is not exported\n"
                f"fix: `finetune run {name}` trains a model without them"
            )
        version = tags["merged_version"]
        merged = store.find(name, "merged_model", version)
        if merged is None:
            return f"the merged model {version} of {alias} (version {number}) is gone from the artifact store"
    elif alias:
        return (
            f"{name} has no {alias}: run `finetune run {name}`, or leave --alias out for the model that is registered"
        )
    elif made := store.all_versions(name, "merged_model"):
        merged = made[-1]
        problem(f"no model of {name} is registered: this is the one trained last ({merged.version})")
    else:
        return f"{name} has no trained model yet: run `finetune run {name}`"
    if "serving" not in merged.facts:
        return f"the model {merged.version} was made by an earlier version of this program: run `finetune run {name}` again"
    adapter = store.find(name, "adapter", merged.inputs["adapter"])
    base = store.find(SHARED, "base_model", merged.inputs["base_model"])
    if adapter is None or base is None:
        lost = "adapter" if adapter is None else "base_model"
        return (
            f"the {lost} {merged.inputs[lost]} of this model is gone from the artifact store: run `finetune run {name}`"
        )
    for artifact in (merged, adapter, base):
        store.check(artifact)
    released = _of(store.all_versions(name, "model_version"), merged)
    if number is None and released is not None:
        number = int(released.facts["model_version"])
    report = _of(store.all_versions(name, "evaluation_report"), merged)
    return Source(name, task.spec.description, task.spec.card.model_dump(), merged, adapter, base, report, number)


def _of(made: list[Artifact], merged: Artifact) -> Artifact | None:
    """The newest of these artifacts that was made from this merged model."""
    return next((a for a in reversed(made) if a.inputs.get("merged_model") == merged.version), None)


def _tell(source: Source, manifest: dict[str, Any], to: Path) -> None:
    size = sum(f["bytes"] for f in manifest["files"].values()) / 1e6
    what = "adapter" if manifest["what"] == "adapter" else f"model in {manifest['dtype']}"
    version = f", version {manifest['model_version']}" if manifest["model_version"] else ""
    say(f"{source.task}{version}: {what}, {len(manifest['files'])} files of {size:.1f} MB, in {to.absolute()}")
    evaluation = manifest["evaluation"]
    if evaluation is None:
        say("  not evaluated on the sealed test yet")
    elif evaluation["passed"]:
        say("  every gate passed")
    else:
        say(f"  gates said no: {', '.join(name for name, status in evaluation['gates'].items() if status == 'failed')}")
    if manifest["what"] == "adapter":
        say(f"  base model: {manifest['base_model']['id']}, in {model_folder(source.base.folder)}")
    say("  how to ask and serve it: README.md; for programs: export.json")
