"""Preference rows, and the second stage that trains on them."""

import shutil
from pathlib import Path

from msgspec.structs import replace

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.cleaning import BOILERPLATE
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.preferences.making import PREFERENCES, PreferenceFacts, make_preferences
from finetune_pipeline.data.preferences.rows import preferences_digest
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import digest_json, read_json, write_json
from finetune_pipeline.engine.step import RunInputs, StepContext
from finetune_pipeline.engine.store import CHANGED_ANSWERS, MANIFEST, Artifact, ArtifactStore
from finetune_pipeline.evaluation.ability.drop import ability_drop, read_ability
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.production_rows import logged_example, read_logged_rows
from finetune_pipeline.evaluation.refined_choice import (
    NO_GAIN,
    PHRASES,
    REFINED,
    SUPERVISED,
    changed_answers,
    choose,
    decided,
)
from finetune_pipeline.jobs import ModelSet, PredictJob, RefineJob
from finetune_pipeline.production.log_merging import Logs
from finetune_pipeline.production.thumbs import logged_preferences
from finetune_pipeline.review.second_stage import comparisons, preferred
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.training import decisive_settings
from finetune_pipeline.steps.ability import ability_settings, score_ability
from finetune_pipeline.steps.baseline import answering_settings
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.earlier_runs import answers_of
from finetune_pipeline.steps.reviews import secret_of
from finetune_pipeline.steps.rungs import PREDICTIONS
from finetune_pipeline.steps.training import class_settings, make_supervised, merge
from finetune_pipeline.trainers.ray import refine_on_ray
from finetune_pipeline.training.facts import AnyTraining, LocalTraining, RefinedChoice, RefinedFacts, Refinement


def why_no_preferences(splits: Artifact, spec: TaskSpec) -> str:
    """Return why no preference rows are made; empty if they are."""
    return "" if spec.training.refine.is_on else "training.refine.method is none"


def preferences_of(task: Task, logs: Logs) -> str:
    """Return a digest that changes only with the task's preferences; empty if none are asked for."""
    if not task.spec.training.refine.is_on:
        return ""
    return digest_json([preferences_digest(task.folder), logged_preferences(task.spec, logs.rows).digest()])


def make_preference_rows(context: StepContext) -> PreferenceFacts:
    """Make preference rows from files and logs, without any like a row that judges the model.

    All rows of the task but those of the training split count as judging. The rows themselves tell which they are: the sealed
    file is not opened.
    """
    spec, inputs = context.spec, context.inputs
    logs = inputs["production_logs"]
    logged = logged_preferences(spec, read_logged_rows(logs.path("rows.jsonl")))
    files = preferences_digest(context.task.folder)
    digest = digest_json([files, logged.digest()])
    context.refuse_changed("preferences", digest, context.run_inputs.preferences)
    train = read_examples(split_file(context, "train"))
    train_ids = {example.id for example in train}
    judging = [e for e in read_examples(inputs["reviewed_examples"].folder) if e.id not in train_ids]
    judging += [logged_example(spec, row, "") for row in read_logged_rows(logs.path("judging.jsonl"))]
    return make_preferences(
        spec,
        context.task.folder,
        logged.preferences,
        train,
        judging,
        Boilerplate.load(inputs["clean_examples"].path(BOILERPLATE)),
        context.out,
        held=len(logged.held),
        unused=logged.unused,
    )


def preferred_stages(task: Task, store: ArtifactStore) -> list[str]:
    """Return the versions of refined_adapter whose answers are surely preferred; none where answers are no text."""
    if not task.spec.training.refine.is_on or task.spec.output.kind != "text":
        return []
    return preferred(comparisons(task, secret_of(store)))


def refined_settings(spec: TaskSpec, run: RunInputs) -> dict[str, object]:
    """Return the settings that the second stage and its comparison with the first depend on."""
    return {
        **decisive_settings(spec.training),
        **class_settings(spec),
        "refine": [
            spec.training.refine.model_dump(),
            [spec.metric, spec.output.model_dump(), spec.gates.confidence, answering_settings(spec)],
            ability_settings(spec, run),
        ],
    }


def adapter_settings(spec: TaskSpec, run: RunInputs) -> dict[str, object]:
    """Return the settings that the adapter depends on besides its inputs."""
    chosen = {"preferred": run.preferred} if spec.training.refine.is_on else {}
    return {**decisive_settings(spec.training), **class_settings(spec), **chosen}


class SecondStage(Facts, frozen=True, kw_only=True):
    """Facts of refined_adapter. too_few: why nothing was trained; empty if it was. choice: what follows without people."""

    too_few: str = ""
    training: RefinedFacts | None = None
    choice: RefinedChoice | None = None


def make_refined(context: StepContext) -> SecondStage:
    """Train the first stage's adapter further, and compare both models on the validation rows."""
    if too_few := context.inputs["preference_rows"].read(PreferenceFacts).too_few:
        return SecondStage(too_few=too_few)
    training = _refine(context)
    choice = _compare(context, context.inputs["supervised_adapter"].path("adapter"), context.out / "adapter")
    return SecondStage(training=training, choice=choice)


def make_adapter(context: StepContext) -> AnyTraining:
    """Train the adapter; with training.refine, keep the better of the two stages."""
    if not context.spec.training.refine.is_on:
        trained = _first_stage_of_earlier_run(context)
        return _copy(context, trained) if trained else make_supervised(context)
    first, second = context.inputs["supervised_adapter"], context.inputs["refined_adapter"]
    for path in first.folder.iterdir():  # whatever is decided, losses, times and audit are those of the first stage
        if path.is_file() and path.name in ("history.jsonl", "measured.json", "audit.json", "audit.html"):
            shutil.copyfile(path, context.out / path.name)
    facts, refined = first.read(LocalTraining), second.read(SecondStage)
    choice = refined.choice
    if choice is not None:
        measured = {**read_json(context.out / "measured.json"), "refined": read_json(second.path("measured.json"))}
        write_json(context.out / "measured.json", measured)
        if context.spec.output.kind == "text":
            found = comparisons(context.task, secret_of(context.store))
            context.refuse_changed("comparisons of answers", preferred(found), context.run_inputs.preferred)
            if said := found.get(second.version):
                choice = decided(choice, said.people, said.judge)
    chosen = second if choice and choice.refined else first
    shutil.copytree(chosen.path("adapter"), context.out / "adapter")
    return replace(facts, refinement=Refinement(too_few=refined.too_few, training=refined.training, choice=choice))


def _first_stage_of_earlier_run(context: StepContext) -> Artifact | None:
    """Return the first stage of a run with training.refine that trained on the same rows with the same settings; None if there is
    none."""
    inputs = context.inputs
    needs = {name: inputs[name].version for name in ("train_split", "validation_split", "base_model")}
    code_version = read_json(inputs["supervised_adapter"].folder / MANIFEST)["code_version"]
    settings = adapter_settings(context.spec, context.run_inputs)
    version = context.store.version("supervised_adapter", code_version, needs, settings)
    found = context.store.find(context.task.name, "supervised_adapter", version)
    return context.store.check(found) if found else None


def _copy(context: StepContext, trained: Artifact) -> LocalTraining:
    manifest = shutil.ignore_patterns(MANIFEST)
    shutil.copytree(trained.folder, context.out, ignore=manifest, dirs_exist_ok=True)
    return trained.read(LocalTraining)


def _refine(context: StepContext) -> RefinedFacts:
    settings = context.spec.training
    *_, last_phase = METHODS[settings.method].phases(settings)
    job = RefineJob(
        base=context.inputs["base_model"].folder,
        start_from=context.inputs["supervised_adapter"].path("adapter"),
        rows=context.inputs["preference_rows"].path(PREFERENCES),
        settings=last_phase,
        refine=settings.refine,
        out=context.out,
        work=context.builder.work / "second_stage",
    )
    if context.spec.training.trainer == "ray":
        return RefinedFacts.of(refine_on_ray(replace(job, stage="refined_adapter"), context.spec))
    return RefinedFacts.of(context.launch(job))


def _compare(context: StepContext, supervised: Path, refined: Path) -> RefinedChoice:
    """Let both models, as they would be served, answer the validation rows. Their merged weights are not kept."""
    spec, work, stage = context.spec, context.builder.work / "judged", "refined_adapter"
    sets = []
    for name, adapter in ((SUPERVISED, supervised), (REFINED, refined)):
        shutil.rmtree(work / name, ignore_errors=True)
        (work / name).mkdir(parents=True)
        merge(context, adapter, work / name, stage=stage)
        schema = spec.decoded_schema
        sets.append(ModelSet(name=name, model=work / name, restricted=schema, constrained=schema is not None))
    validation = split_file(context, "validation")
    out = work / "answers"
    out.mkdir(exist_ok=True)
    job = PredictJob(
        sets=sets,
        examples=validation,
        labels=spec.labels,
        out=out,
        answers=answers_of(context.store),
        stage=stage,
        **answering_settings(spec),
    )
    context.launch(job)
    rows = read_predictions(out / PREDICTIONS)
    answers = of_model(rows, SUPERVISED), of_model(rows, REFINED)
    examples = {example.id: example for example in read_examples(validation)}
    sources = {name: example.made_from for name, example in examples.items()}
    choice = choose(spec, *answers, sources)
    may_be_preferred = spec.output.kind == "text" and choice.changed and {*choice.reasons} <= {NO_GAIN, PHRASES}
    if (
        choice.refined or may_be_preferred
    ):  # not asked of a model that cannot go on: it takes as long as all rows of some tasks
        facts = []
        for name in (SUPERVISED, REFINED):
            (work / f"ability_{name}").mkdir(exist_ok=True)
            facts.append(score_ability(context, work / name, None, stage, work / f"ability_{name}"))
        if all(each.items for each in facts):
            before, after = (read_ability(work / f"ability_{name}") for name in (SUPERVISED, REFINED))
            choice = choose(spec, *answers, sources, ability_drop(before, after, spec.gates.confidence))
    write_rows(context.out / CHANGED_ANSWERS, changed_answers(*answers, examples))
    shutil.rmtree(work)
    return choice
