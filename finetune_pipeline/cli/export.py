"""``finetune export TASK --to DIR``: exports a trained model as a folder that any server loads."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.baseline.simple_export import export_simple
from finetune_pipeline.cli.judged import ALIASES, find_source
from finetune_pipeline.cli.output import DONE, REFUSED, as_json, get_task, problem, tell
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.models.export import check_place, export_adapter, export_model, unfinished
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import Source
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.report.model_card import card_of
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.baseline import best_simple_model

TARGETS = ("transformers", "vllm", "tgi", "ollama")
SIMPLE_BYTES = 1 << 28
"""Free disk space needed for a simple model."""


@click.command()
@click.argument("task")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="A new or empty folder.")
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
@click.option("--simple", is_flag=True, help="The best model without a language model, as scikit-learn pipelines.")
@click.option("--alias", type=click.Choice(ALIASES), help="Alias of the model. Unset: champion, else candidate.")
@as_json
def export(task: str, to: Path, adapter: bool, target: str, simple: bool, alias: str | None) -> int:
    """Write the model of TASK as a folder that any server loads: with export.json (prompt, generation settings, labels,
    origin, digests) and a model card. Nothing is overwritten. Exit code 2: the model differs from the trained one.
    """
    loaded, to = get_task(task), Path(os.path.abspath(to))
    if simple and (adapter or target != "transformers" or alias):
        raise click.UsageError("--simple exports no language model: omit --adapter, --for and --alias")
    if simple:
        return _export_simple(loaded, to)
    if adapter and target == "ollama":
        raise click.UsageError("--for ollama needs the whole model: omit --adapter")
    check_place(to)
    store = Store().artifacts()
    source = find_source(loaded, store, alias, "exported")
    if not source.merged.facts["parity"]["passed"]:
        problem(
            f"the model {source.merged.version} differs from the trained model (check merge_parity), so it is not exported\n"
            f"fix: `finetune run {loaded.name}`, or export the adapter of another run with --alias"
        )
        return REFUSED
    card = partial(card_of, source.report)
    manifest = (export_adapter if adapter else export_model)(source, to, card, target)
    facts = {"folder": str(to), "base_folder": str(model_folder(source.base.folder)), "manifest": manifest}
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
        {"folder": str(to), "manifest": manifest},
        f"{task.name}: {model.title}, fitted on {source.rows:,} training rows, in {to}",
        *(
            f"  on {where}: {metric_title(name)} {score_text(name, scores['primary']['value'])} on {scores['n']} rows"
            for where, scores in source.scores.items()
            for name in [scores["primary"]["name"]]
        ),
        "  how to use it: README.md and predict.py; for programs: simple_model.json",
    )
    return DONE


def _lines(source: Source, manifest: dict[str, Any], to: Path) -> Iterator[str]:
    size = sum(f["bytes"] for f in manifest["files"].values()) / 1e6
    model_kind = "adapter" if manifest["what"] == "adapter" else f"model in {manifest['dtype']}"
    version = f", version {manifest['model_version']}" if manifest["model_version"] else ""
    yield f"{source.task}{version}: {model_kind}, {len(manifest['files'])} files of {size:.1f} MB, in {to}"
    evaluation = manifest["evaluation"]
    if evaluation is None:
        yield "  not yet evaluated on the sealed test"
    elif evaluation["passed"]:
        yield "  every gate passed"
    else:
        yield f"  gates said no: {', '.join(name for name, status in evaluation['gates'].items() if status == 'failed')}"
    if manifest["what"] == "adapter":
        yield f"  base model: {manifest['base_model']['id']}, in {model_folder(source.base.folder)}"
    yield "  how to serve and use it: README.md; for programs: export.json"
