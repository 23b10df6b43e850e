"""DATA: raw files and production corrections become leak-free splits."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.data.duplicates import clean
from finetune_pipeline.data.ledger import record_assignments
from finetune_pipeline.data.raw_files import collect_raw, raw_digest
from finetune_pipeline.data.review import apply_reviews, reviews_digest
from finetune_pipeline.data.splitting import split
from finetune_pipeline.data.validation import validate
from finetune_pipeline.graph import Step, Work

SPLIT_LEDGER = "splits.jsonl"


def make_raw(work: Work) -> dict[str, Any]:
    """Snapshot of the raw files, and of corrected production rows. Fails if files changed while being copied."""
    facts = collect_raw(work.task, work.out, work.inputs["production_logs"].path("examples.jsonl"))
    if raw_digest(work.task) != work.world.raw:
        raise RuntimeError(
            f"raw files of {work.task.name} changed since this run began; run it again to use the new ones"
        )
    return facts


def make_validated(work: Work) -> dict[str, Any]:
    return validate(work.inputs["raw_examples"].folder, work.spec, work.out)


def make_clean(work: Work) -> dict[str, Any]:
    return clean(work.inputs["validated_examples"].folder, work.spec, work.out)


def make_reviewed(work: Work) -> dict[str, Any]:
    reviews = work.task.folder / "reviews"
    facts = apply_reviews(work.inputs["clean_examples"].folder, reviews, work.spec, work.out)
    if reviews_digest(reviews) != work.world.reviews:
        raise RuntimeError(
            f"reviews of {work.task.name} changed since this run began; run it again to use the new ones"
        )
    return facts


def make_splits(work: Work) -> dict[str, Any]:
    """Splits by the ledger of earlier assignments, which then learns the new ones.

    The ledger is written before the artifact is published: should the process die in between, the rerun reads back the
    same assignments and makes the same artifact.
    """
    ledger = work.store.state_folder(work.task.name) / SPLIT_LEDGER
    with work.store.lock(work.task.name, "split-ledger"):
        facts = split(work.inputs["reviewed_examples"].folder, work.spec, ledger, work.out)
        record_assignments(work.out, ledger)
    return facts


STEPS = [
    Step(
        "raw_examples", (), "1", lambda s, w: [w.raw, w.corrections, s.data.raw], make_raw, after=("production_logs",)
    ),
    Step(
        "validated_examples",
        ("raw_examples",),
        "1",
        lambda s, w: [s.output.model_dump(), s.system_prompt, s.data.format, s.data.max_chars, s.data.min_chars],
        make_validated,
    ),
    Step(
        "clean_examples",
        ("validated_examples",),
        "1",
        lambda s, w: [s.output.kind, s.data.near_duplicate_threshold, s.data.scrub],
        make_clean,
    ),
    Step("reviewed_examples", ("clean_examples",), "1", lambda s, w: w.reviews, make_reviewed),
    Step(
        "splits",
        ("reviewed_examples",),
        "1",
        lambda s, w: [s.split.model_dump(), s.data.near_duplicate_threshold],
        make_splits,
    ),
]
