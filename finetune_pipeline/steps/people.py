"""EVALUATION: what people said of the answers, for the report and the gates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import Artifact, ArtifactStore, read_json
from finetune_pipeline.evaluation.correctness import is_right
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.findings import as_rows, count_by_rule
from finetune_pipeline.review.ratings import ratings_digest, read_ratings
from finetune_pipeline.review.sheet import SheetItem, draw, load_secret, make_sheet, read_sheet_name, sheet_name
from finetune_pipeline.review.summary import summarise
from finetune_pipeline.spec.model import Task

KEY_FILE = "review.key"


def secret_of(store: ArtifactStore) -> bytes:
    """The secret that blinds all sheets of this store."""
    return load_secret(store.root / KEY_FILE)


def drawn_items(predictions: Artifact, task: Task, items: int, secret: bytes) -> dict[str, str]:
    """The examples of a sheet on these predictions, and how each was drawn."""
    rows = read_predictions(predictions.path("predictions.parquet"))
    base, candidate = of_model(rows, "base"), of_model(rows, "candidate")
    right = {row["example_id"]: is_right(row, task.spec.output) for row in candidate}
    return draw(base, candidate, right, items, secret)


def output_sheet(predictions: Artifact, task: Task, items: int, secret: bytes) -> tuple[str, list[SheetItem]]:
    """(name, items) of the sheet on these predictions."""
    rows = read_predictions(predictions.path("predictions.parquet"))
    drawn = drawn_items(predictions, task, items, secret)
    name = sheet_name(predictions.version, len(drawn))
    texts = read_json(predictions.path("texts.json"))
    return name, make_sheet(name, drawn, of_model(rows, "base"), of_model(rows, "candidate"), texts, secret)


def make_human_review(work: StepContext) -> dict[str, Any]:
    """Ratings of the present candidate's answers; ratings of earlier ones are counted and left alone."""
    reviews = _reviews(work)
    ratings, findings = read_ratings(reviews)
    predictions, secret = work.inputs["test_predictions"], secret_of(work.store)
    own = [r for r in ratings if (read_sheet_name(r.sheet) or ("",))[0] == predictions.version]
    drawn = {
        sheet: drawn_items(predictions, work.task, size[1], secret)
        for sheet in sorted({r.sheet for r in own})
        if (size := read_sheet_name(sheet))
    }
    facts = summarise(own, drawn, secret, work.spec.gates.confidence)
    write_rows(work.out / "findings.jsonl", as_rows(findings))
    if ratings_digest(reviews) != work.world.ratings:
        raise RuntimeError(
            f"ratings of {work.task.name} changed since this run began; run it again to use the new ones"
        )
    return {**facts, "of_earlier_candidates": len(ratings) - len(own), "by_rule": count_by_rule(findings)}


def _reviews(work: StepContext) -> Path:
    return work.task.folder / "reviews"
