"""TRAINING: plan, adapter, merged model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.preferences.making import PREFERENCES, PreferenceFacts, enough_of_files
from finetune_pipeline.data.preferences.rows import Preference, read_made
from finetune_pipeline.engine.step import RunInputs, StepContext
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.findings import FindingsError, errors
from finetune_pipeline.jobs import MergeJob
from finetune_pipeline.models.facts import MergedModel, Serving
from finetune_pipeline.models.hosted import pass_on, read_hosted
from finetune_pipeline.planning.answering import asking_settings
from finetune_pipeline.planning.plan import TrainingPlan, training_plan
from finetune_pipeline.report.page import page_markdown
from finetune_pipeline.report.training_pages import plan_page
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.steps.baseline import answering_settings
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.trainers import TrainingOrder, preflight, train
from finetune_pipeline.training.facts import AnyTraining


def plan_settings(spec: TaskSpec, run: RunInputs) -> dict[str, object]:
    """Return the settings that the plan depends on."""
    refine = spec.training.refine
    second_stage = {"refine": refine.model_dump(), "preferences": run.preferences} if refine.is_on else {}
    first_stage = spec.training.model_dump(exclude={"budget_usd", "refine"})
    return {**first_stage, "asked": asking_settings(spec), **second_stage}


def preferences_to_plan(made: Artifact | None, task: Task) -> list[Preference]:
    """Return the preferences that the second stage will train on; none if they are too few.

    made: preference_rows. Before they are made, the valid rows of the task's files are returned.
    """
    if not task.spec.training.refine.is_on:
        return []
    if made is None:
        return enough_of_files(task.spec, task.folder)
    if made.skipped or made.read(PreferenceFacts).too_few:
        return []
    return read_made(made.path(PREFERENCES))


def make_training_plan(context: StepContext) -> TrainingPlan:
    if blocking := errors(preflight(context.spec, context.task.folder, context.inputs["base_model"].folder)):
        raise FindingsError(blocking)
    plan = training_plan(
        context.spec,
        context.inputs["base_model"].folder,
        read_examples(split_file(context, "train")),
        read_examples(split_file(context, "validation")),
        context.out,
        home=context.store.root.parent,
        task_folder=context.task.folder,
        preferences=preferences_to_plan(context.inputs["preference_rows"], context.task),
    )
    return replace(plan, plan_markdown=page_markdown(plan_page(plan)))


def train_rows(
    context: StepContext,
    rows: Path,
    out: Path,
    work: Path,
    tick: Callable[[], None] = lambda: None,
    stage: str = "adapter",
) -> AnyTraining:
    """Train on the rows of a file with the task's settings."""
    order = TrainingOrder(
        context.spec,
        base=context.inputs["base_model"].folder,
        train=rows,
        validation=split_file(context, "validation"),
        out=out,
        work=work,
        launch=lambda job: context.launch(replace(job, stage=stage)),
        home=context.store.root.parent,
        task_folder=context.task.folder,
        tick=tick,
    )
    return train(order)


def merge(context: StepContext, adapter: Path, out: Path, **options: Any) -> MergedModel:
    """Merge an adapter into the base, and compare the result with the trained model. options: further arguments of the job."""
    job = MergeJob(
        base=context.inputs["base_model"].folder,
        adapter=adapter,
        examples=split_file(context, "validation"),
        labels=context.spec.labels,
        out=out,
        **answering_settings(context.spec),
        **options,
    )
    return MergedModel.of(context.launch(job))


def class_settings(spec: TaskSpec) -> dict[str, object]:
    """Return the labels of a classifier, whose order is that of its outputs; nothing for other methods."""
    return {} if METHODS[spec.training.method].kind.generates else {"classes": spec.labels}


def make_supervised(context: StepContext) -> AnyTraining:
    """Train on the training split."""
    work = context.builder.work
    facts = train_rows(context, split_file(context, "train"), context.out, work, lambda: context.follow(work))
    if hosted := read_hosted(context.out):
        return replace(facts, endpoint=hosted)
    return facts


def make_merged_model(context: StepContext) -> MergedModel:
    """Merge the adapter and compare the result with the trained model; a hosted model is passed on unchanged."""
    adapter, spec = context.inputs["adapter"], context.spec
    if hosted := read_hosted(adapter.folder):
        serving = Serving(
            system_prompt=spec.system_prompt,
            labels=spec.labels,
            max_new_tokens=spec.answer_length,
            stop_token_ids=[],
            stop_tokens=[],
        )
        return pass_on(hosted, adapter.folder, context.out, serving)
    return merge(context, adapter.path("adapter"), context.out)
