"""BASELINE: what the base model does when it is only prompted, and whether training is worth it at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import ArtifactStore, read_json
from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.data.split_files import examples_of
from finetune_pipeline.evaluation.baseline import score_baselines
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.evaluation.shared_sources import shared_sources, source_of
from finetune_pipeline.evaluation.worth import worth_training
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.graph import SHARED, Step, Work
from finetune_pipeline.models.chat_templates import read_chat_template, template_identity
from finetune_pipeline.planning.power import power_plan
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline.stages.kept_answers import answers_of
from finetune_pipeline.stages.world import base_of
from finetune_pipeline.training.jobs import base_job, baseline_job


def answer_length(spec: TaskSpec) -> int:
    """Longest generated answer, in tokens."""
    return spec.baseline.max_new_tokens if isinstance(spec.output, LabelsOutput) else spec.output.max_new_tokens


def make_base_model(work: Work) -> dict[str, Any]:
    """The base model, with the task's chat template where it gives one. Tasks with the same text of it share the result."""
    spec, folder = work.spec, work.task.folder
    template = read_chat_template(spec.chat_template, folder)
    if template_identity(spec.chat_template, folder).get("chat_template") != work.world.base.get("chat_template"):
        raise RuntimeError(
            f"{spec.chat_template} of {work.task.name} changed since this run began; run it again to use the new one"
        )
    job = base_job(base_model=spec.base_model, revision=spec.base_revision, out=work.out, chat_template=template)
    return work.launch(job)


def made_base(task: Task, store: ArtifactStore) -> Path | None:
    """The artifact of the task's base model, where it is made already; looks at nothing else of the task's world."""
    if not store.all_versions(SHARED, BASE_STEP.name):
        return None  # nothing to compare digests of weights with
    try:
        identity = base_of(task)
    except (FindingsError, OSError, ValueError):
        return None
    found = store.find(SHARED, BASE_STEP.name, store.version(BASE_STEP.name, BASE_STEP.code_version, {}, identity))
    return found.folder if found else None


def make_few_shot_baseline(work: Work) -> dict[str, Any]:
    """Every prompt of the spec on the validation split; `best` names the one fine-tuning must beat."""
    spec, splits = work.spec, work.inputs["splits"].folder
    told = work.launch(
        baseline_job(
            base=work.inputs["base_model"].folder,
            examples=examples_of(splits, "validation"),
            train=examples_of(splits, "train"),
            shots=spec.baseline.shots,
            seed=spec.baseline.seed,
            labels=spec.labels,
            max_new_tokens=answer_length(spec),
            batch_size=spec.baseline.batch_size,
            answers=answers_of(work),
            out=work.out,
        )
    )
    by_prompt: dict[str, list[dict[str, Any]]] = {}
    for row in read_predictions(work.out / "predictions.parquet"):
        by_prompt.setdefault(row["model"], []).append(row)
    facts = score_baselines(spec, by_prompt)
    source = {e.id: source_of(e) for e in read_examples(examples_of(splits, "validation"))}
    rows = {name: sorted(of, key=lambda row: str(row["example_id"])) for name, of in by_prompt.items()}
    shared = shared_sources(rows[facts["best"]], source)
    test_rows = int(work.inputs["splits"].facts["counts"]["test"])
    return {
        **told,
        **facts,
        "prompt_details": told.get("prompts", {}),
        "worth_training": worth_training(spec, facts),
        "power": power_plan(spec, test_rows, facts["best"], rows, shared),
    }


def power_settings(spec: TaskSpec) -> list[float]:
    """The part of the spec the plan for the test set depends on."""
    gates = spec.gates
    return [gates.confidence, gates.wanted_gain, gates.min_gain, gates.power, spec.split.test]


def best_turns(work: Work) -> list[dict[str, str]]:
    """The in-context turns of the best prompt on validation."""
    baseline = work.inputs["few_shot_baseline"]
    prompts = read_json(baseline.path("prompts.json"))
    return list(prompts[baseline.facts["best"]]["turns"])


BASE_STEP = Step("base_model", (), "1", lambda s, w: w.base, make_base_model, shared=True)
STEPS = [
    # after the report on the data: its blocking checks decide whether anything is prompted or trained
    Step(
        "few_shot_baseline",
        ("splits", "base_model"),
        "4",
        lambda s, w: [s.baseline.model_dump(), s.output.model_dump(), s.metric, *power_settings(s)],
        make_few_shot_baseline,
        after=("data_quality",),
    ),
]
