"""RELEASE: registers the model that the evaluation ships, or else the candidate; `champion` moves only to one that is shipped."""

import shutil

from msgspec.structs import replace

from finetune_pipeline.engine.files import digest_file, write_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.calibration import digest_of
from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.prompts import read_prompts
from finetune_pipeline.evaluation.simple_models import FITTED
from finetune_pipeline.evaluation.stored_prompt import StoredPrompt
from finetune_pipeline.evaluation.winner import row_of
from finetune_pipeline.models.facts import MergedModel
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.manifest import Source, base_record, describe
from finetune_pipeline.production.erasure import tainted_data
from finetune_pipeline.production.released import Outcome, Released, ReleaseRequest
from finetune_pipeline.report.model_card import REGISTERED, card_of
from finetune_pipeline.report.shipped_card import shipped_card
from finetune_pipeline.report.stored import Evaluated, read_report
from finetune_pipeline.spec.methods import KINDS
from finetune_pipeline.steps.baseline import json_schema, passages_file
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.earlier_runs import RECORD, SHIPPED

CARD = "README.md"


def release_request(context: StepContext) -> ReleaseRequest:
    """Return the request to register a model, and write the files of a simple model or a prompt."""
    report, adapter, merged = (context.inputs[name] for name in ("evaluation_report", "adapter", "merged_model"))
    hosted, evaluated = read_hosted(merged.folder), report.read(Evaluated)
    chosen, passed = evaluated.winner, evaluated.winner.kind is not None
    if merged.skipped and not passed:  # the simplest finalist is what would have been shipped
        first = read_report(report).finalists[0]
        chosen = Winner(kind=first.kind, name=first.name, mode=first.mode, title=first.title)
    registered, dataset = evaluated.models[row_of(chosen)].to_json(), adapter.inputs["train_split"]
    holds_rows = _write_shipped(context, chosen)
    files = {path.name: digest_file(path) for path in sorted((context.out / SHIPPED).glob("*"))}
    request = ReleaseRequest(
        name=context.task.name,
        method=hosted.trainer if hosted else "none" if merged.skipped else context.spec.training.method,
        kind=str(chosen.kind) if merged.skipped else merged.read(MergedModel).kind,
        endpoint=hosted,
        dataset_version=dataset,
        adapter=str(adapter.folder / "adapter"),
        adapter_version=adapter.version,
        merged=str(merged.folder),
        merged_version=merged.version,
        evaluation_version=report.version,
        base=str(context.inputs["base_model"].folder),
        base_identity=dict(context.run_inputs.base),
        system_prompt=context.spec.system_prompt,
        max_new_tokens=context.spec.answer_length,
        precision=context.spec.evaluation.precision,
        json_schema=json_schema(context.spec),
        constrained_decoding=context.spec.decoded_schema is not None,
        gates_passed=passed,
        gates=dict(evaluated.winner_gates),
        forgotten=bool({dataset, *adapter.inputs.values()} & tainted_data(context.task, context.store)),
        verdict=evaluated.verdict,
        winner_kind=chosen.kind,
        winner_name=chosen.name,
        shipped=str(context.out / SHIPPED) if files else None,
        files=files,
        holds_rows=holds_rows,
        loosened=evaluated.loosened or "none",
        about=f"{context.spec.description} The alias champion is the version that serves; candidate is the newest one.",
        scores={name: value for name, value in registered.items() if isinstance(value, int | float)},
        compared_with=context.run_inputs.champion,
        card=_shipped_card(context, chosen, files) if files else _card(context),
        rollout=context.spec.rollout is not None,
    )
    measured = evaluated.probabilities.get(row_of(chosen))
    if measured is None:
        return request
    return replace(request, probability=replace(measured, digest=digest_of(request.record)))


def _write_shipped(context: StepContext, winner: Winner) -> bool:
    """Write the files of a simple model or a prompt into the artifact, nothing for a trained model. Returns whether they contain
    training rows, or words of them."""
    out = context.out / SHIPPED
    if winner.kind == "simple":
        shutil.copytree(context.inputs["few_shot_baseline"].path(f"{FITTED}/{winner.name}"), out)
        return True
    if winner.kind == "prompt":
        stored = StoredPrompt(
            name=str(winner.name),
            prompt=read_prompts(context.inputs["few_shot_baseline"].folder)[str(winner.name)],
            mode=winner.mode or "free",
            labels=context.spec.labels,
            json_schema=json_schema(context.spec),
        )
        stored.write(out, split_file(context, "train"), passages_file(context))
        return stored.holds_rows
    return False


def _shipped_card(context: StepContext, winner: Winner, files: dict[str, str]) -> str:
    report = context.inputs["evaluation_report"]
    base = base_record(context.inputs["base_model"]).id if winner.kind == "prompt" else None
    return shipped_card(read_report(report), winner, files, base)


def _card(context: StepContext) -> str:
    spec, inputs = context.spec, context.inputs
    merged, adapter, base = inputs["merged_model"], inputs["adapter"], inputs["base_model"]
    report = inputs["evaluation_report"]
    schema = spec.decoded_schema
    evaluated = report.read(Evaluated).record(report.version)
    source = Source(
        spec.name,
        spec.description,
        spec.card,
        merged,
        adapter,
        base,
        report,
        evaluated,
        json_schema=schema,
    )
    weights = merged if KINDS[merged.read(MergedModel).kind].plain else base
    return card_of(source.report, describe(source, model_folder(weights.folder), REGISTERED))


def make_model_version(context: StepContext) -> Released:
    """Register the candidate, and promote it if every gate passed. Registration is idempotent: a killed release is repeated."""
    request = release_request(context)
    outcome = Outcome.of(context.release(request)).to_json()
    (context.out / CARD).write_text(request.card, "utf-8")
    write_json(context.out / RECORD, {**request.record, **outcome})
    return Released.of({**request.record, **outcome})
