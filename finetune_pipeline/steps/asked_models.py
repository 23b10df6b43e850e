"""Selects the models for the sealed test, and where each runs: here, at your endpoint, at the trainer, or behind an API.

A set (jobs.ModelSet) is a model with one prompt, under the name that its answers have in predictions.parquet.
"""

import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from msgspec.structs import replace

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.perturbations import KINDS
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.prediction_facts import ApiUsage, Predicted, SetFacts
from finetune_pipeline.evaluation.predictions import read_predictions, write_predictions
from finetune_pipeline.evaluation.prompts import read_prompts
from finetune_pipeline.evaluation.refined_choice import REFINED, SUPERVISED
from finetune_pipeline.evaluation.rivals import API_MODEL, Baseline, best_api_prompt
from finetune_pipeline.jobs import FittedSet, ModelSet, Perturbed, PredictJob, Prompt
from finetune_pipeline.models.facts import MergedModel
from finetune_pipeline.models.hosted import HostedModel, read_hosted
from finetune_pipeline.models.identity import served
from finetune_pipeline.spec.evaluation import VERSION
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.trainers import HostedSection
from finetune_pipeline.steps.baseline import ask_api, json_schema
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.earlier_runs import champion_files, champion_of, champion_schema
from finetune_pipeline.steps.rungs import PREDICTIONS
from finetune_pipeline.steps.training import merge
from finetune_pipeline.trainers import TRAINERS
from finetune_pipeline.training.facts import training_of


def base_set(spec: TaskSpec, name: str, base: Artifact, prompt: Prompt) -> ModelSet:
    """Return the set of the base model with a prompt; for JSON, its answers are also constrained to the schema."""
    served_as = _served_as(spec, "base", base)
    return ModelSet(name=name, model=base.folder, prompt=prompt, served=served_as, restricted=json_schema(spec))


def trained_set(
    spec: TaskSpec, name: str, merged: Artifact, base: Artifact, schema: Mapping[str, object] | None
) -> ModelSet:
    """Return the set of a trained model of any kind, without shots; a model hosted by its trainer answers there. schema: that its
    answers are decoded under, if they are."""
    asked = ModelSet(name=name, model=base.folder, restricted=schema, constrained=schema is not None)
    if hosted := read_hosted(merged.folder):
        return replace(asked, hosted=hosted.to_json())
    loaded = served(merged, base)
    return replace(asked, model=loaded.model, adapter=loaded.adapter, served=_served_as(spec, name, merged))


def champion_set(context: StepContext) -> tuple[ModelSet | FittedSet, str]:
    """Return the set of the champion, of whatever kind, and its kind: that of the merged model if it was tuned."""
    kind = context.run_inputs.champion_kind
    if kind == "simple":
        return FittedSet(name="champion", folder=champion_files(context)), kind
    champion, base = champion_of(context)
    if kind == "prompt":
        asked = base_set(context.spec, "base", base, Prompt())
        return replace(asked, name="champion", restricted=None, stored=champion_files(context)), kind
    # decoded as it is served, whatever the task declares now
    return trained_set(context.spec, "champion", champion, base, champion_schema(context)), champion.read(
        MergedModel
    ).kind


def first_stage_sets(context: StepContext, merged: Path) -> list[ModelSet]:
    """Merge the first stage's model into the folder `merged` and return its set; none unless the second stage's is the candidate.

    It answers on this machine. A candidate at an endpoint, which does not serve the first stage, then answers here, too.
    """
    spec, candidate = context.spec, context.inputs["merged_model"]
    if not spec.training.refine.is_on or candidate.skipped:
        return []
    refinement = training_of(context.inputs["adapter"]).refinement
    if refinement is None or refinement.choice is None or not refinement.choice.refined:
        return []
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    merge(context, context.inputs["supervised_adapter"].path("adapter"), merged, stage="test_predictions")
    schema = spec.decoded_schema
    models = {SUPERVISED: merged, **({REFINED: candidate.folder} if endpoint_of(spec) else {})}
    return [
        ModelSet(name=name, model=model, restricted=schema, constrained=schema is not None)
        for name, model in models.items()
    ]


def perturbed_sets(spec: TaskSpec, answering: ModelSet) -> list[ModelSet]:
    settings = spec.robustness
    if not settings.rows or answering.name != "candidate":
        return []
    return [answering.on_perturbed(Perturbed(kind=kind, rows=settings.rows, seed=settings.seed)) for kind in KINDS]


def endpoint_of(spec: TaskSpec) -> dict[str, object] | None:
    evaluation = spec.evaluation
    return evaluation.endpoint.model_dump() if evaluation.endpoint and evaluation.engine == "endpoint" else None


def _served_as(spec: TaskSpec, name: str, artifact: Artifact) -> str | None:
    """Return the name of a model at the endpoint; None if there is none."""
    endpoint = endpoint_of(spec)
    return str(endpoint[name] or endpoint["candidate"]).replace(VERSION, artifact.version) if endpoint else None


def while_served(context: StepContext, sets: list[ModelSet], services: ExitStack) -> list[ModelSet]:
    """Return the sets, with hosted models at endpoints that their trainers keep running until `services` is closed."""
    running: dict[HostedModel, HostedModel] = {}

    def at_its_endpoint(model_set: ModelSet) -> ModelSet:
        if model_set.hosted is None:
            return model_set
        hosted = HostedModel.of(model_set.hosted)
        if hosted not in running:
            trainer = TRAINERS.get(hosted.trainer)
            served_at = trainer and trainer.serving(context.spec, hosted, context.store.root.parent)
            running[hosted] = services.enter_context(served_at) if served_at else hosted
        section = getattr(context.spec.training, hosted.trainer, None)
        concurrency = section.concurrency if isinstance(section, HostedSection) else None
        return replace(model_set, hosted=running[hosted].to_json(), concurrency=concurrency)

    return [at_its_endpoint(model_set) for model_set in sets]


def add_answers(context: StepContext, job: PredictJob) -> dict[str, SetFacts]:
    """Launch a further job, and append its answers to predictions.parquet. Returns the facts of its sets."""
    answered = Predicted.of(context.launch(job))
    path = context.out / PREDICTIONS
    write_predictions(path, [*read_predictions(path), *read_predictions(job.out / PREDICTIONS)])
    return answered.sets


def add_api_answers(context: StepContext, examples: Path) -> ApiUsage | None:
    """Ask the API model with its best prompt, if there is one: its answers come first in predictions.parquet. Returns the usage.

    They are the model `base` if nothing was better on validation, else API_MODEL.
    """
    baseline = context.inputs["few_shot_baseline"]
    facts = baseline.read(Baseline)
    name = best_api_prompt(facts.prompts)
    if name is None:
        return None
    prompts = {"base" if name == facts.best else API_MODEL: read_prompts(baseline.folder)[name]}
    path = context.out / PREDICTIONS
    rows = read_predictions(path)
    gold = {row["example_id"]: row["gold"] for row in rows}
    test, train = read_examples(examples), read_examples(split_file(context, "train"))
    answers, usage = ask_api(context, prompts, test, train, gold, test=True, most_failed=0.0, stage="test_predictions")
    write_predictions(path, [*answers, *rows])
    return replace(usage, prompt=name)
