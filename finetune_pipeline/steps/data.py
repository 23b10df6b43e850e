"""DATA: turns raw files and production corrections into leak-free splits."""

import os
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from finetune_pipeline.data.dedup.benchmarks import is_benchmark
from finetune_pipeline.data.dedup.cleaning import Cleaned, clean
from finetune_pipeline.data.examples import examples_of, seal, seal_key
from finetune_pipeline.data.losses import Lost
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.data.raw_files import RawFacts, collect_raw
from finetune_pipeline.data.review import Reviewed, apply_reviews, reviews_digest
from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.data.split.ledger import mark_begun, record_assignments
from finetune_pipeline.data.split.splitting import SplitFacts, assignments_in, split
from finetune_pipeline.data.validate.validation import Validated, validate
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.ability.items import SUITE
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.tokens import TokenCounter, epochs_of
from finetune_pipeline.report.data_quality import write_quality
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.steps.teacher import TEACHER_ROWS
from finetune_pipeline.trainers.ray_data import clean_on_ray, validate_on_ray

SCRUBBING_KEY = "scrubbing.key"
DATA_STEPS = ("raw_examples", "validated_examples", "clean_examples", "reviewed_examples", "splits")


def sealing_key(context: StepContext) -> bytes:
    return seal_key(load_key(context.store.root / SCRUBBING_KEY))


def split_file(context: StepContext, split: str) -> Path:
    """Return the file of the train or validation split, which must be among the step's inputs."""
    return examples_of(context.inputs[f"{split}_split"].folder, split)


def ability_files(task: Task) -> list[Path]:
    """Return the benchmark files of a task, sorted. Raises FindingsError for every glob without a match."""
    matches = {
        pattern: [path for path in task.folder.glob(pattern) if path.is_file()] for pattern in task.spec.ability.files
    }
    if unmatched := [pattern for pattern, files in matches.items() if not files]:
        place, fix = "task.yaml: ability.files", "correct or remove the pattern"
        raise FindingsError(
            [Finding("ability.files", "error", place, f"{pattern!r} matches no file", fix) for pattern in unmatched]
        )
    return sorted({path for files in matches.values() for path in files})


def benchmark_files(task: Task) -> list[tuple[str, Path]]:
    """Return (name, path) of the benchmark files for general ability, whose questions no row of the task may repeat.

    They are the shipped suite and ability.files.
    """
    folder = task.folder.resolve()
    # only the folder is resolved: the suffix of a link's own name determines the format
    files = [path.parent.resolve() / path.name for path in ability_files(task)]
    files_by_name = {f"ability/{os.path.relpath(path, folder).replace('..', '_')}": path for path in files}
    shipped = {"ability/suite.jsonl": SUITE} if task.spec.ability.suite else {}
    return [(name, path) for name, path in sorted({**files_by_name, **shipped}.items()) if is_benchmark(path)]


def make_raw(context: StepContext) -> RawFacts:
    """Copy the raw files, the corrected production rows and the teacher's rows. Fails if files change while being copied."""
    corrections = context.inputs["production_logs"].path("examples.jsonl")
    answers = context.inputs["teacher_answers"].path(TEACHER_ROWS) if context.spec.teacher else None
    facts = collect_raw(context.task, context.out, corrections, benchmark_files(context.task), answers)
    context.refuse_changed("raw files", facts.digest, context.run_inputs.raw)
    return facts


def make_validated(context: StepContext) -> Validated:
    raw = context.inputs["raw_examples"]
    surveys = raw.read(RawFacts).surveys
    if context.spec.compute.data == "ray":
        work = context.builder.work
        return validate_on_ray(raw.folder, context.spec, context.out, work, raw.version, surveys)
    return validate(raw.folder, context.spec, context.out, surveys)


def make_clean(context: StepContext) -> Cleaned:
    raw, validated = (context.inputs[name] for name in ("raw_examples", "validated_examples"))
    key = load_key(context.store.root / SCRUBBING_KEY)
    if context.spec.compute.data == "ray":
        version, work = f"{raw.version} {validated.version}", context.builder.work
        facts = clean_on_ray(validated.folder, context.spec, context.out, work, version, raw=raw.folder, key=key)
    else:
        facts = clean(validated.folder, context.spec, context.out, raw=raw.folder, key=key)
    losses = validated.read(Validated).losses.then("cleaning", facts.quarantined, facts.labels_lost)
    return replace(facts, losses=losses)


def make_reviewed(context: StepContext) -> Reviewed:
    reviews = context.task.folder / "reviews"
    facts = apply_reviews(context.inputs["clean_examples"].folder, reviews, context.spec, context.out)
    context.refuse_changed("reviews", reviews_digest(reviews), context.run_inputs.reviews)
    return facts


def make_splits(context: StepContext) -> SplitFacts:
    """Split the rows: earlier ones as the ledger assigns them; the assignments of new ones are added to it.

    The ledger is written before the artifact is published. If the process dies in between, the rerun reads the same
    assignments and makes the same artifact.
    """
    ledger = context.store.state_folder(context.task.name) / context.run_inputs.split_ledger
    key = sealing_key(context)
    reviewed, cleaned = (context.inputs[name] for name in ("reviewed_examples", "clean_examples"))
    with context.store.lock(context.task.name, "split-ledger"):
        facts = split(reviewed.folder, cleaned.folder, context.spec, ledger, context.out, partial(seal, key=key))
        if context.spec.split.restart:
            mark_begun(ledger)  # first: otherwise a rerun would begin yet another ledger
        record_assignments(assignments_in(context.out), ledger)
    # rows too like a test row, and rows that a changed setting tore apart, have limits of their own
    losses = cleaned.read(Lost).losses.then("splitting", facts.by_rule.get("data.bridges_splits", 0))
    return replace(facts, ledger=ledger.name, losses=losses)


def quality_settings(spec: TaskSpec) -> dict[str, object]:
    data = spec.data
    return {
        "labels": spec.labels,
        "imbalance": data.max_imbalance,
        "suspects": data.max_suspects_of_a_file,
        "noise": data.max_label_noise,
        "triggers": data.triggers,
        "synthetic": data.synthetic.model_dump(),
        "training": [
            spec.training.method,
            spec.training.max_tokens,
            spec.training.over_length,
            epochs_of(spec.training),
            spec.training.augment and spec.training.seed,
        ],
    }


def make_data_quality(context: StepContext) -> QualityFacts:
    """Write the data quality report: balance, label noise, synthetic rows and tokens of the whole data set."""
    inputs = context.inputs
    return write_quality(
        context.spec,
        reviewed=inputs["reviewed_examples"].folder,
        clean=inputs["clean_examples"].folder,
        splits=inputs["splits"].folder,
        counter=TokenCounter(model_folder(inputs["base_model"].folder)),
        stages={name: inputs[name].facts for name in DATA_STEPS},
        out=context.out,
    )
