"""People compare the supervised model's text answers with those of a second stage, without seeing whose they are.

The sheet has validation rows that both models answer differently, one of each source, in a random order. What people say is
evidence, however often one looks: a bet on each row that wins nothing on average unless people find the refined model's answers
better more often than worse. The chance that it ever reaches what is needed otherwise is half of 1 - gates.confidence.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.review import SECOND_STAGE
from finetune_pipeline.engine.store import CHANGED_ANSWERS, Artifact
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.refined_choice import REFINED, SUPERVISED
from finetune_pipeline.evaluation.statistics.betting import not_worse_evidence
from finetune_pipeline.review.ratings import Rating, read_ratings, summarise
from finetune_pipeline.review.sheet import (
    MOST_ITEMS,
    RANDOM,
    SheetItem,
    candidate_is_a,
    keyed,
    read_sheet_name,
    sheet_name,
    shown_text,
)
from finetune_pipeline.spec.model import Task
from finetune_pipeline.training.facts import Compared


def second_stage_sheet(refined: Artifact, secret: bytes) -> tuple[str, list[SheetItem]]:
    """Return the sheet's name and its items.

    Args:
        refined: The artifact of the second stage.
        secret: Decides about order and sides.
    """
    by_source: dict[str, dict[str, Any]] = {}
    file = refined.path(CHANGED_ANSWERS)
    for row in sorted(read_rows(file) if file.exists() else [], key=lambda row: keyed(secret, "draw", row["id"])):
        by_source.setdefault(row["source"], row)
    drawn = list(by_source.values())[:MOST_ITEMS]
    name, sheet = sheet_name(refined.version, max(1, len(drawn))), []
    for row in drawn:
        sides = [shown_text(row[REFINED]), shown_text(row[SUPERVISED])]
        a, b = sides if candidate_is_a(secret, name, row["id"]) else sides[::-1]
        sheet.append(SheetItem(row["id"], row["request"], row["reference"], a, b, RANDOM))
    return name, sheet


def comparisons(task: Task, secret: bytes) -> dict[str, Compared]:
    """Return what people say of each second stage, by the version of its artifact."""
    by_version: dict[str, list[Rating]] = {}
    for rating in read_ratings(task.folder / "reviews", SECOND_STAGE)[0]:
        if name := read_sheet_name(rating.sheet):
            by_version.setdefault(name[0], []).append(rating)
    confidence = task.spec.gates.confidence
    return {version: compared(_people(ratings, secret), confidence) for version, ratings in by_version.items()}


def _people(ratings: Sequence[Rating], secret: bytes) -> People:
    drawn: dict[str, dict[str, str]] = {}
    for rating in ratings:
        drawn.setdefault(rating.sheet, {})[rating.id] = RANDOM
    return summarise(ratings, drawn, secret)


def compared(people: People, confidence: float) -> Compared:
    """Weigh people's ratings, in which the refined model is the candidate and the supervised one the base. The better answer of
    two is the only one that is accepted."""
    losses = [item.base - item.candidate for item in people.items.values()]
    evidence = float(not_worse_evidence(losses, 0.0)[-1]) if losses else 1.0
    return Compared(
        rated=len(losses),
        refined=losses.count(-1),
        supervised=losses.count(1),
        evidence=evidence,
        needed=2 / (1 - confidence),
    )


def preferred(found: Mapping[str, Compared]) -> list[str]:
    """Return the second stages whose answers people surely prefer. Ratings that decide nothing make no new model."""
    return sorted(version for version, each in found.items() if each.surely_better)
