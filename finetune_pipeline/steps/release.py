"""RELEASE: the candidate becomes a registered model; `champion` moves only if every gate passed."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import write_json
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import Source, describe
from finetune_pipeline.production.forget import tainted_splits
from finetune_pipeline.report.model_card import REGISTERED, card_of
from finetune_pipeline.spec.methods import KINDS
from finetune_pipeline.steps.baseline import answer_length

CARD = "README.md"


def release_request(work: StepContext) -> dict[str, Any]:
    """What the registry is told about a candidate. `compared_with` lets a rerun find the same comparison again."""
    report = work.inputs["evaluation_report"]
    candidate = report.facts["models"]["candidate"]
    return {
        "name": work.task.name,
        "method": work.spec.training.method,
        "kind": work.inputs["merged_model"].facts["kind"],
        "dataset_version": work.inputs["adapter"].inputs["train_split"],
        "adapter": str(work.inputs["adapter"].path("adapter")),
        "adapter_version": work.inputs["adapter"].version,
        "merged": str(work.inputs["merged_model"].folder),
        "merged_version": work.inputs["merged_model"].version,
        "evaluation_version": report.version,
        "base": str(work.inputs["base_model"].folder),
        "base_identity": dict(work.world.base),
        "system_prompt": work.spec.system_prompt,
        "max_new_tokens": answer_length(work.spec),
        "gates_passed": bool(report.facts["passed"]),
        "gates": {g["name"]: g["status"] for g in report.facts["gates"]},
        "forgotten": work.inputs["adapter"].inputs["train_split"] in tainted_splits(work.task.name, work.store),
        "verdict": report.facts["verdict"],
        "scores": {k: v for k, v in candidate.items() if isinstance(v, int | float)},
        "compared_with": dict(work.world.champion) if work.world.champion else None,
        "card": _card(work),
    }


def _card(work: StepContext) -> str:
    """The model card that stands beside the registered model."""
    merged, base = work.inputs["merged_model"], work.inputs["base_model"]
    spec = work.spec
    source = Source(
        spec.name,
        spec.description,
        spec.card.model_dump(),
        merged,
        work.inputs["adapter"],
        base,
        work.inputs["evaluation_report"],
    )
    asked = merged if KINDS[merged.facts["kind"]].stored_whole else base
    return card_of(source.report, describe(source, model_folder(asked.folder), REGISTERED))


def make_model_version(work: StepContext) -> dict[str, Any]:
    """Register, and promote if every gate passed. The registry's part is idempotent, so a killed release is repeated."""
    request = release_request(work)
    outcome = work.release(request)
    (work.out / CARD).write_text(request.pop("card"), "utf-8")
    write_json(work.out / "model_version.json", {**request, **outcome})
    return {
        **outcome,
        "gates_passed": request["gates_passed"],
        "forgotten": request["forgotten"],
        "gates": request["gates"],
        "verdict": request["verdict"],
    }
