"""RELEASE: registers the candidate; `champion` moves only if every gate passed."""

from typing import Any

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.winner import TRAINED
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import Source, describe
from finetune_pipeline.production.erasure import tainted_splits
from finetune_pipeline.report.model_card import REGISTERED, card_of
from finetune_pipeline.spec.methods import KINDS

CARD = "README.md"


def release_request(context: StepContext) -> dict[str, Any]:
    """Return the request to register a candidate. A rerun reads `compared_with` to compare with the same model again."""
    report, adapter, merged = (context.inputs[name] for name in ("evaluation_report", "adapter", "merged_model"))
    candidate, dataset = report.facts["models"]["candidate"], adapter.inputs["train_split"]
    hosted = read_hosted(merged.folder)
    return {
        "name": context.task.name,
        "method": hosted.trainer if hosted else context.spec.training.method,
        "kind": merged.facts["kind"],
        "endpoint": hosted.model_dump() if hosted else None,
        "dataset_version": dataset,
        "adapter": str(adapter.folder / "adapter"),
        "adapter_version": adapter.version,
        "merged": str(merged.folder),
        "merged_version": merged.version,
        "evaluation_version": report.version,
        "base": str(context.inputs["base_model"].folder),
        "base_identity": dict(context.run_inputs.base),
        "system_prompt": context.spec.system_prompt,
        "max_new_tokens": context.spec.answer_length,
        "precision": context.spec.evaluation.precision,
        "gates_passed": bool(report.facts["passed"]) and report.facts["winner"]["kind"] in TRAINED,
        "gates": dict(report.facts["winner_gates"]),
        "forgotten": dataset in tainted_splits(context.task, context.store),
        "verdict": report.facts["verdict"],
        "winner_kind": report.facts["winner"]["kind"],
        "winner_name": report.facts["winner"]["name"],
        "loosened": report.facts["loosened"] or "none",
        "about": f"{context.spec.description} The alias champion is the version that serves; candidate is the newest one.",
        "scores": {name: value for name, value in candidate.items() if isinstance(value, int | float)},
        "compared_with": dict(context.run_inputs.champion) if context.run_inputs.champion else None,
        "card": _card(context),
    }


def _card(context: StepContext) -> str:
    spec, inputs = context.spec, context.inputs
    merged, adapter, base = inputs["merged_model"], inputs["adapter"], inputs["base_model"]
    report = inputs["evaluation_report"]
    source = Source(spec.name, spec.description, spec.card.model_dump(), merged, adapter, base, report)
    weights = merged if KINDS[merged.facts["kind"]].plain else base
    return card_of(source.report, describe(source, model_folder(weights.folder), REGISTERED))


def make_model_version(context: StepContext) -> dict[str, Any]:
    """Register the candidate, and promote it if every gate passed. Registration is idempotent: a killed release is repeated."""
    request = release_request(context)
    outcome = context.release(request)
    (context.out / CARD).write_text(request.pop("card"), "utf-8")
    for folder in ("adapter", "merged", "base"):  # folders may move; their versions, which are kept, do not change
        del request[folder]
    write_json(context.out / "model_version.json", {**request, **outcome})
    return {**outcome, **{name: request[name] for name in ("gates_passed", "forgotten", "gates", "verdict")}}
