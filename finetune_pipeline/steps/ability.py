"""EVALUATION: general ability of the base model and of the candidate, on the same items."""

from collections.abc import Sequence
from pathlib import Path

from msgspec.structs import asdict

from finetune_pipeline.engine.step import RunInputs, StepContext
from finetune_pipeline.evaluation.ability.drop import (
    Ability,
    AbilityLoss,
    AbilityRow,
    Scored,
    ability_drop,
    read_ability,
)
from finetune_pipeline.evaluation.ability.items import Item, digest_items, load_items
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.jobs import AbilityJob
from finetune_pipeline.models.facts import MergedModel
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import served
from finetune_pipeline.spec.methods import KINDS
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.steps.data import ability_files
from finetune_pipeline.steps.earlier_runs import answers_of, champion_of


def asked_items(task: Task) -> list[Item]:
    """Return the questions on general ability. Raises FindingsError for missing or invalid files."""
    ability = task.spec.ability
    return load_items(ability_files(task), ability.rows_per_file, ability.suite)


def ability_digest(task: Task) -> str:
    """Return the digest of everything that tests general ability. Raises FindingsError for invalid files."""
    items = asked_items(task)
    if items and not any(item.choices for item in items):
        message = "there are texts but no question, so no loss of accuracy can be measured"
        fix = "add a file of questions, or set suite: true"
        raise FindingsError([Finding("ability.items", "error", "task.yaml: ability", message, fix)])
    return digest_items(items)


def ability_settings(spec: TaskSpec, run: RunInputs) -> dict[str, object]:
    """Return the settings that affect the scores of any model."""
    return {
        "asked": run.ability,
        "batch_size": spec.baseline.batch_size,
        "precision": spec.evaluation.precision,
    }


def score_ability(context: StepContext, model: Path, adapter: Path | None, stage: str, out: Path) -> Scored:
    """Ask a model the questions on general ability. Without any `items` there are no questions."""
    spec, ability = context.spec, context.spec.ability
    if not asked_items(context.task):
        return Scored(items=0, sentence="nothing to ask: ability.suite is false, and there are no files")
    facts = context.launch(
        AbilityJob(
            model=model,
            adapter=adapter,
            files=ability_files(context.task),
            limit=ability.rows_per_file,
            suite=ability.suite,
            batch_size=spec.baseline.batch_size,
            out=out,
            answers=answers_of(context.store),
            stage=stage,
            precision=spec.evaluation.precision,
        )
    )
    scored = Scored.of(facts)
    context.refuse_changed("files of the section ability", scored.asked_digest, context.run_inputs.ability)
    return scored


def make_base_ability(context: StepContext) -> Scored:
    """Compute the base model's answers, once for all candidates."""
    return score_ability(context, context.inputs["base_model"].folder, None, "base_ability", context.out)


def make_general_ability(context: StepContext) -> Ability:
    """Compute the candidate's answers and its loss against the base and the champion (evaluation.ability.drop.ability_drop)."""
    if reason := context.inputs["merged_model"].skipped:
        return Ability(items=0, not_asked=reason, sentence=reason)
    if hosted := read_hosted(context.inputs["merged_model"].folder):
        reason = f"{hosted.place} returns no likelihoods, which scoring general ability needs."
        return Ability(items=0, not_asked=reason, sentence=reason)
    if not KINDS[context.inputs["merged_model"].read(MergedModel).kind].generates:
        reason = "A classifier can answer nothing but its labels, so it has no general ability to lose."
        return Ability(items=0, not_asked=reason, sentence=reason)
    model = served(context.inputs["merged_model"], context.inputs["base_model"])
    scored = score_ability(context, model.model, model.adapter, "general_ability", context.out)
    if not scored.items:
        return Ability(**asdict(scored))
    before = read_ability(context.inputs["base_ability"].folder)
    after, confidence = read_ability(context.out), context.spec.gates.confidence
    against_champion = _against_champion(context, after, confidence)
    return Ability(**asdict(scored), **asdict(ability_drop(before, after, confidence)), champion=against_champion)


def _against_champion(context: StepContext, candidate: Sequence[AbilityRow], confidence: float) -> AbilityLoss | None:
    if not context.run_inputs.champion or context.run_inputs.champion_kind != "tuned":
        return None  # a simple model has no general ability, and a prompt that of its base
    champion, base = champion_of(context)
    if read_hosted(champion.folder) or not KINDS[champion.read(MergedModel).kind].generates:
        return None  # no likelihoods to compare with
    model, out = served(champion, base), context.out / "champion"
    score_ability(context, model.model, model.adapter, "general_ability", out)
    return ability_drop(read_ability(out), candidate, confidence)
