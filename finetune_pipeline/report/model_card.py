"""Writes a model's README.md: a card in the Hugging Face format, from an export's manifest and the report's sections."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from huggingface_hub import EvalResult, ModelCardData

from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.winner import TRAINED, winner_of
from finetune_pipeline.evaluation.wording import level, number
from finetune_pipeline.models.manifest import Manifest
from finetune_pipeline.report.blocks import Block, Table, figure, text
from finetune_pipeline.report.evaluation_page import evaluation_page
from finetune_pipeline.report.page import markdown_templates, tidy
from finetune_pipeline.report.stored import read_report

REGISTERED = "registered"
_EVALUATION = (
    "models",
    "prompts",
    "paired",
    "form",
    "labels",
    "detail",
    "automation",
    "calibration",
    "seal",
    "gates",
    "people",
)
"""Sections of the report in the card's evaluation. A card contains only public blocks."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]*\Z")
_LINK = re.compile(r"(?:https?://)?(?<![\w.\-])[\w.\-]+\.[a-z]{2,}/[\w./\-]+")


def card_of(report: Artifact | None, manifest: Manifest) -> str:
    evaluated = read_report(report) if report else None
    return model_card(manifest, evaluated, evaluated.gates if evaluated else ())


def model_card(manifest: Manifest, evaluation: EvaluationResult | None = None, gates: Sequence[GateResult] = ()) -> str:
    """Write the card: a YAML header and Markdown, without any row of the data. Untrusted texts are escaped.

    manifest: from models.manifest.describe. evaluation: of exactly this model, if any, with its gates.
    """
    sections: dict[str, list[Block]] = {"data": []}
    titles: list[tuple[str, str]] = []
    page = evaluation_page(evaluation, gates) if evaluation else None
    if page:
        sections = {section.id: section.public() for section in page.sections}
        by_id = {section.id: section.title for section in page.sections}
        titles = [(id_, by_id[id_]) for id_ in _EVALUATION]
    accepted = False
    if evaluation and page and page.verdict:
        accepted = page.verdict.status == "passed" and winner_of(evaluation, gates).kind in TRAINED
    settings = [[name, f"{v:g}" if isinstance(v, float) else number(v)] for name, v in _flat(manifest.training)]
    sections["settings"] = [Table([("Setting", text), ("", figure)], settings, style="")]
    sections["lineage"] = [_lineage(manifest, evaluation)]
    return tidy(
        markdown_templates()
        .get_template("card.md")
        .render(
            header=card_data(manifest, evaluation).to_yaml(line_break="\n"),
            model=manifest,
            sections={"training": []} | sections,
            evaluation=titles,
            verdict=page.verdict if page else None,
            accepted=accepted,
            n=number(evaluation.n) if evaluation else "",
            labels=json.dumps(manifest.labels, ensure_ascii=False),
        )
    )


def _flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str | float]]:
    """Flatten settings; nested ones get dotted names."""
    rows: list[tuple[str, str | float]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, str | float | int):
            rows.append((f"{prefix}{key}", value))
    return rows


def _lineage(manifest: Manifest, evaluation: EvaluationResult | None) -> Table:
    base, artifacts = manifest.base_model, manifest.artifacts
    versions = {**artifacts.to_json(), **(evaluation.versions if evaluation else {}), **artifacts.to_json()}
    rows = [["base model", base.id + (f" at {base.revision}" if base.revision else "")]]
    rows += [[f"base: {name}", f"SHA-256 {digest}"] for name, digest in sorted(base.weights.items())]
    rows += [[name.replace("_", " "), version] for name, version in versions.items() if version]
    rows += [[f"library {name}", version] for name, version in manifest.versions.items()]
    return Table([("What", text), ("Version", text)], rows)


def card_data(manifest: Manifest, evaluation: EvaluationResult | None) -> ModelCardData:
    """Build the card's metadata with huggingface_hub's classes, which validate it. The metric's name contains the interval, because
    the format has no other place for it."""
    base, card = manifest.base_model, manifest.card
    adapter = manifest.what == "adapter"
    results = _results(manifest, evaluation) if evaluation else []
    hub = base.id if base.identity.get("kind") == "hub" else None
    licence, licence_name, licence_link = _licence(manifest)
    return ModelCardData(
        base_model=hub,
        base_model_relation=("adapter" if adapter else "finetune") if hub else None,
        library_name=None if manifest.endpoint else "peft" if adapter else "transformers",
        pipeline_tag=_task_type(manifest),
        language=list(card.language) or None,
        datasets=list(card.datasets) or None,
        tags=["finetune-pipeline", str(manifest.method), manifest.task],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=manifest.task,
        eval_results=results or None,
        license=licence,
        license_name=licence_name,
        license_link=licence_link,
    )


def _task_type(manifest: Manifest) -> str:
    """Return the Hub's name of what the model does."""
    return "text-classification" if manifest.kind == "classifier" else "text-generation"


def _licence(manifest: Manifest) -> tuple[str, str | None, str | None]:
    """Return the licence; for one that the Hub does not list, also its name and a link."""
    base, card = manifest.base_model, manifest.card
    link, licence = card.license_link, card.license
    if licence and not link:
        return licence, None, None
    if not licence:
        base_licence = str(base.licence or "").strip()
        if _LICENCE.match(base_licence.lower()):
            return base_licence.lower(), None, None
        match = _LINK.search(base_licence)
        link = link or (f"https://{match[0].removeprefix('https://')}" if match else None)
    licence_file = next((name for name in manifest.files if name.upper().startswith(("LICENSE", "LICENCE"))), None)
    if link is None and licence_file is None and base.identity.get("kind") == "hub":
        link = f"https://huggingface.co/{base.id}"
    place = link or licence_file
    name = licence or ("that-of-the-service" if manifest.endpoint else "that-of-the-base-model")
    return "other", name, place


def _results(manifest: Manifest, evaluation: EvaluationResult) -> list[EvalResult]:
    scores, confidence = evaluation.scores["candidate"], level(evaluation.confidence)
    sealed = partial(
        EvalResult,
        task_type=_task_type(manifest),
        dataset_type=manifest.task,
        dataset_name=f"{manifest.task}, sealed test of {scores.n} rows",
        dataset_split="test",
        dataset_revision=evaluation.versions.get("splits"),
    )
    results = []
    for metric in METRICS.values():
        value = scores.metric(metric.name) if evaluation.task.kind in metric.kinds else None
        if value is not None and metric.hub_name:
            interval = scores.metric_interval(metric.name)
            results.append(_result(sealed, metric.hub_name, metric.title, value, interval, confidence))
    if scores.valid.share is not None:
        title = "answers in the declared form"
        results.append(_result(sealed, "valid_answers", title, scores.valid.share, scores.valid.interval, confidence))
    ability = evaluation.ability
    if ability and ability.after:
        questions = partial(
            EvalResult,
            task_type="text-generation",
            dataset_type="general_ability",
            dataset_name=f"general ability, {ability.n} questions besides the task",
        )
        after = ability.after
        results.append(_result(questions, "accuracy", "accuracy", after.accuracy, after.interval, confidence))
    return results


def _result(
    of_rows: Callable[..., EvalResult],
    kind: str,
    title: str,
    value: float,
    interval: tuple[float, float] | None,
    confidence: str,
) -> EvalResult:
    title = title[:1].upper() + title[1:]
    if interval:
        title += f" ({confidence} interval {interval[0]:.3f} to {interval[1]:.3f})"
    return of_rows(metric_type=kind, metric_name=title, metric_value=round(float(value), 4))
