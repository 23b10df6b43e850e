"""The metadata of a model card, built and checked by huggingface_hub's own classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from finetune_pipeline.evaluation.wording import is_interval, is_number, metric_title

_HUB_METRICS = {
    "accuracy": "accuracy",
    "macro_f1": "f1",
    "micro_f1": "f1",
    "exact": "exact_match",
    "rougeLsum": "rouge",
    "chrf": "chrf",
    "bleu": "bleu",
}
"""Our metrics, and what the Hub calls them."""
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.\-]*\Z")
_LINK = re.compile(r"(?:https?://)?[\w.\-]+\.[a-z]{2,}/[\w./\-]+")


def card_data(manifest: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> ModelCardData:
    """Metadata of the card. manifest: of an export; evaluation: of the report, where there is one.

    Every score is a result of its own, with its interval in the metric's name: the format has no other place for it.
    """
    base, told = manifest["base_model"], manifest["card"]
    adapter = manifest["what"] == "adapter"
    results = _results(manifest, evaluation) if evaluation else []
    names = {r.metric_type for r in results}
    hub = base["id"] if base["identity"].get("kind") == "hub" else None
    return ModelCardData(
        base_model=hub,
        base_model_relation=("adapter" if adapter else "finetune") if hub else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        language=list(told["language"]) or None,
        datasets=list(told["datasets"]) or None,
        tags=["finetune-pipeline", str(manifest["method"]), str(manifest["task"])],
        metrics=sorted(names) or None,
        model_name=str(manifest["task"]),
        eval_results=results or None,
        **_licence(manifest),
    )


def _licence(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """license, and for one that the Hub does not list license_name and license_link."""
    base, told = manifest["base_model"], manifest["card"]
    link, known = told["license_link"], told["license"]
    if known and not link:
        return {"license": known}
    if not known:
        of_base = str(base["licence"] or "").strip()
        if _LICENCE.match(of_base.lower()):
            return {"license": of_base.lower()}
        found = _LINK.search(of_base)
        link = link or (f"https://{found[0].removeprefix('https://')}" if found else None)
    own = next((name for name in manifest["files"] if name.upper().startswith(("LICENSE", "LICENCE"))), None)
    if link is None and own is None and base["identity"].get("kind") == "hub":
        link = f"https://huggingface.co/{base['id']}"
    name = known or "that-of-the-base-model"
    place = link or own
    return {"license": "other", "license_name": name, **({"license_link": place} if place else {})}


def _results(manifest: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[EvalResult]:
    scores, level = evaluation["scores"]["candidate"], f"{100 * evaluation['confidence']:g}%"
    sealed = {
        "task_type": "text-generation",
        "dataset_type": str(manifest["task"]),
        "dataset_name": f"{manifest['task']}, sealed test of {scores['n']} rows",
        "dataset_split": "test",
        "dataset_revision": str(evaluation["versions"].get("splits") or "") or None,
    }
    results = []
    for name, kind in _HUB_METRICS.items():
        if not is_number(scores.get(name)) or (name == "accuracy" and "exact" in scores):
            continue  # of written answers, exact is the same number under its right name
        interval = scores.get("interval" if name == "accuracy" else f"{name}_interval")
        results.append(_result(sealed, kind, metric_title(name), scores[name], interval, level))
    if is_number((scores.get("valid") or {}).get("share")):
        valid = scores["valid"]
        results.append(
            _result(sealed, "valid_answers", "answers in the declared form", valid["share"], valid["interval"], level)
        )
    ability = evaluation.get("ability") or {}
    if ability.get("items"):
        questions = {
            "task_type": "text-generation",
            "dataset_type": "general_ability",
            "dataset_name": f"general ability, {ability['n']} questions besides the task",
        }
        after = ability["after"]
        results.append(_result(questions, "accuracy", "accuracy", after["accuracy"], after["interval"], level))
    return results


def _result(about: Mapping[str, Any], kind: str, title: str, value: float, interval: Any, level: str) -> EvalResult:
    if is_interval(interval):
        title += f" ({level} interval {interval[0]:.3f} to {interval[1]:.3f})"
    return EvalResult(
        **about, metric_type=kind, metric_name=title[:1].upper() + title[1:], metric_value=round(float(value), 4)
    )
