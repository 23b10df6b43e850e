"""DATA: raw files and production corrections become leak-free splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import examples_of
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.review import apply_reviews, reviews_digest
from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.data.sealing import seal, seal_key
from finetune_pipeline.data.split.ledger import record_assignments
from finetune_pipeline.data.split.splitting import assignments_in, split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.planning.tokens import epochs_of
from finetune_pipeline.report.data_quality import write_quality
from finetune_pipeline.spec.model import TaskSpec

SPLIT_LEDGER = "splits"
SCRUBBING_KEY = "scrubbing.key"


def sealing_key(work: StepContext) -> bytes:
    """What the store's tests are sealed with."""
    return seal_key(load_key(work.store.root / SCRUBBING_KEY))


def split_file(work: StepContext, split: str) -> Path:
    """The rows of the train or validation split, which the step has to need."""
    return examples_of(work.inputs[f"{split}_split"].folder, split)


def make_raw(work: StepContext) -> dict[str, Any]:
    """Snapshot of the raw files, and of corrected production rows. Fails if files changed while being copied."""
    facts = collect_raw(work.task, work.out, work.inputs["production_logs"].path("examples.jsonl"))
    if facts["digest"] != work.world.raw:
        raise RuntimeError(
            f"raw files of {work.task.name} changed since this run began; run it again to use the new ones"
        )
    return facts


def make_validated(work: StepContext) -> dict[str, Any]:
    return validate(work.inputs["raw_examples"].folder, work.spec, work.out)


def make_clean(work: StepContext) -> dict[str, Any]:
    raw, validated = (work.inputs[name].folder for name in ("raw_examples", "validated_examples"))
    return clean(validated, work.spec, work.out, raw=raw, key=load_key(work.store.root / SCRUBBING_KEY))


def make_reviewed(work: StepContext) -> dict[str, Any]:
    reviews = work.task.folder / "reviews"
    facts = apply_reviews(work.inputs["clean_examples"].folder, reviews, work.spec, work.out)
    if reviews_digest(reviews) != work.world.reviews:
        raise RuntimeError(
            f"reviews of {work.task.name} changed since this run began; run it again to use the new ones"
        )
    return facts


def make_splits(work: StepContext) -> dict[str, Any]:
    """Splits by the ledger of earlier assignments, which then learns the new ones.

    The ledger is written before the artifact is published: should the process die in between, the rerun reads back the
    same assignments and makes the same artifact.
    """
    ledger = work.store.state_folder(work.task.name) / SPLIT_LEDGER
    key = sealing_key(work)
    reviewed, cleaned = (work.inputs[name].folder for name in ("reviewed_examples", "clean_examples"))
    with work.store.lock(work.task.name, "split-ledger"):
        facts = split(reviewed, cleaned, work.spec, ledger, work.out, lambda rows: seal(rows, key))
        record_assignments(assignments_in(work.out), ledger)
    return facts


def quality_settings(spec: TaskSpec) -> dict[str, Any]:
    """The part of the spec the report on data quality depends on."""
    data = spec.data
    return {
        "labels": spec.labels,
        "thresholds": [data.min_examples, data.min_per_label, data.many_examples, data.max_imbalance],
        "suspects": data.max_suspects_of_a_file,
        "noise": data.max_label_noise,
        "consistency": data.consistency.model_dump(),
        "synthetic": data.synthetic.model_dump(),
        "training": [
            spec.training.method,
            spec.training.max_tokens,
            spec.training.over_length,
            epochs_of(spec.training),
        ],
        "prices": [price.model_dump(mode="json") for price in load_prices()],
    }


def make_data_quality(work: StepContext) -> dict[str, Any]:
    """What no single row shows: sizes, balance, consistency, label noise, synthetic rows, tokens and price."""
    names = ("raw_examples", "validated_examples", "clean_examples", "reviewed_examples", "splits")
    folders = {name: work.inputs[name].folder for name in names}
    report = write_quality(
        work.spec,
        reviewed=folders["reviewed_examples"],
        clean=folders["clean_examples"],
        splits=folders["splits"],
        raw=folders["raw_examples"],
        tokenizer=model_folder(work.inputs["base_model"].folder),
        stages={name: work.inputs[name].facts for name in names},
        out=work.out,
    )
    return report
