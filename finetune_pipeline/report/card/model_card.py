"""The README.md of a model: a card in the Hugging Face format, from the manifest of an export and the report's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.artifacts import Artifact, read_json
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.report.card import evidence
from finetune_pipeline.report.card.header import card_data
from finetune_pipeline.report.card.usage import asking, serving, what_sentences
from finetune_pipeline.report.markdown import plain


def model_card(
    manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None = None, gates: Sequence[GateResult] = ()
) -> str:
    """Markdown behind a YAML header. manifest: see models.export.describe; evaluation, gates: of the report that judged this
    very model. Texts of strangers can start no markup, and no row of the data is shown."""
    told = manifest["card"]
    parts = [
        f"# {plain(manifest['task'])}",
        plain(manifest["description"]),
        *(evidence.verdict(evaluation, gates) if evaluation else ["> It was not evaluated when this was written."]),
        "## What it is",
        what_sentences(manifest),
        *([f"Meant for: {plain(told['intended_use'])}"] if told["intended_use"] else []),
        *([f"Not meant for: {plain(told['out_of_scope'])}"] if told["out_of_scope"] else []),
        "## How to ask it",
        asking(manifest),
        "## How to serve it",
        serving(manifest),
        "## Training data",
        *evidence.training_data(manifest, evaluation),
        "## Training",
        *evidence.training(manifest, evaluation),
    ]
    if evaluation:
        parts += ["## Evaluation", *evidence.quality(evaluation, gates)]
        parts += ["## Limits", *evidence.limits(evaluation)]
        parts += ["## General ability", *evidence.ability(evaluation)]
        parts += ["## Cost", *evidence.cost(evaluation)]
    parts += ["## Lineage", *evidence.lineage(manifest, evaluation), "## Licence", plain(_licence(manifest))]
    header = card_data(manifest, evaluation).to_yaml(line_break="\n")
    return f"---\n{header}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def card_of(report: Artifact | None, manifest: Mapping[str, Any]) -> str:
    """The card of a model and of the evaluation_report that judged it, if there is one."""
    if report is None:
        return model_card(manifest)
    gates = [GateResult.from_dict(gate) for gate in read_json(report.path("gates.json"))]
    return model_card(manifest, read_json(report.path("evaluation.json")), gates)


def _licence(manifest: Mapping[str, Any]) -> str:
    own = manifest["card"]["license"]
    return (f"This model: {own}. " if own else "") + str(manifest["base_model"]["licence_note"])
