"""DATA: raw files and production corrections become leak-free splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.data.duplicates import clean
from finetune_pipeline.data.ledger import record_assignments
from finetune_pipeline.data.quality.tokens import epochs_of
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.review import apply_reviews, reviews_digest
from finetune_pipeline.data.scrubbing import load_key
from finetune_pipeline.data.sealing import seal, seal_key
from finetune_pipeline.data.splitting import split
from finetune_pipeline.data.validation import judged_by, validate
from finetune_pipeline.graph import Step, Work
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.report.data_quality import write_quality
from finetune_pipeline.spec.model import TaskSpec

SPLIT_LEDGER = "splits"
SCRUBBING_KEY = "scrubbing.key"
_LOOK_BACK = 3
"""Earlier artifacts of a step that are searched for parts to take over."""


def sealing_key(work: Work) -> bytes:
    """What the store's tests are sealed with."""
    return seal_key(load_key(work.store.root / SCRUBBING_KEY))


def earlier(work: Work, step: str) -> list[Path]:
    """Folders of the step's last artifacts, newest first."""
    return [a.folder for a in reversed(work.store.all_versions(work.task.name, step)[-_LOOK_BACK:])]


def make_raw(work: Work) -> dict[str, Any]:
    """Snapshot of the raw files, and of corrected production rows. Fails if files changed while being copied."""
    before = work.store.all_versions(work.task.name, "raw_examples")[-_LOOK_BACK:]
    facts = collect_raw(
        work.task,
        work.out,
        work.inputs["production_logs"].path("examples.jsonl"),
        [{**a.facts, "folder": a.folder} for a in before],
        work.store.seen_files(work.task.name),
    )
    if facts["digest"] != work.world.raw:
        raise RuntimeError(
            f"raw files of {work.task.name} changed since this run began; run it again to use the new ones"
        )
    return facts


def make_validated(work: Work) -> dict[str, Any]:
    raw = work.inputs["raw_examples"].folder
    return validate(raw, work.spec, work.out, earlier(work, "validated_examples"))


def make_clean(work: Work) -> dict[str, Any]:
    return clean(
        work.inputs["validated_examples"].folder,
        work.spec,
        work.out,
        raw=work.inputs["raw_examples"].folder,
        key=load_key(work.store.root / SCRUBBING_KEY),
        earlier=earlier(work, "clean_examples"),
    )


def make_reviewed(work: Work) -> dict[str, Any]:
    reviews = work.task.folder / "reviews"
    cleaned = work.inputs["clean_examples"].folder
    facts = apply_reviews(cleaned, reviews, work.spec, work.out, earlier(work, "reviewed_examples"))
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
    key = sealing_key(work)
    reviewed, cleaned = (work.inputs[name].folder for name in ("reviewed_examples", "clean_examples"))
    with work.store.lock(work.task.name, "split-ledger"):
        return split(
            reviewed,
            cleaned,
            work.spec,
            ledger,
            work.out,
            earlier(work, "splits"),
            seal=lambda rows: seal(rows, key),
            record=lambda assignments, name: record_assignments(assignments, ledger, name),
        )


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


def make_data_quality(work: Work) -> dict[str, Any]:
    """What no single row shows: sizes, balance, consistency, label noise, edge cases, synthetic rows, tokens and price."""
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


STEPS = [
    Step(
        "raw_examples",
        (),
        "3",
        lambda s, w: [w.raw, w.corrections, s.data.raw, s.data.benchmarks],
        make_raw,
        after=("production_logs",),
    ),
    Step("validated_examples", ("raw_examples",), "4", lambda s, w: judged_by(s), make_validated),
    Step(
        "clean_examples",
        ("validated_examples", "raw_examples"),
        "3",
        lambda s, w: [
            s.output.kind,
            s.data.near_duplicate_threshold,
            s.data.scrub,
            s.data.scrub_names,
            s.data.contradictions,
            s.data.semantic.model_dump() if s.data.semantic else None,
        ],
        make_clean,
    ),
    Step("reviewed_examples", ("clean_examples",), "2", lambda s, w: w.reviews, make_reviewed),
    Step(
        "splits",
        ("reviewed_examples", "clean_examples"),
        "5",
        lambda s, w: [
            s.split.model_dump(),
            s.data.near_duplicate_threshold,
            s.data.semantic.model_dump() if s.data.semantic else None,
        ],
        make_splits,
    ),
]
QUALITY_STEP = Step(
    "data_quality",
    ("raw_examples", "validated_examples", "clean_examples", "reviewed_examples", "splits", "base_model"),
    "3",
    lambda s, w: quality_settings(s),
    make_data_quality,
)
