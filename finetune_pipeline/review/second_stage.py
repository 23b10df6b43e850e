"""People compare the supervised model's text answers with those of a second stage, without seeing whose they are.

The sheet has validation rows that both models answer differently, one of each source, in a random order. What people say is
evidence, however often one looks: a bet on each row that wins nothing on average unless people find the refined model's answers
better more often than worse. The chance that it ever reaches what is needed otherwise is half of 1 - gates.confidence. A judge
model that agrees with people on rows of this sheet compares the others; with one, either kind of evidence has half of that chance.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.review import JUDGED_STAGE, SECOND_STAGE
from finetune_pipeline.engine.store import CHANGED_ANSWERS, Artifact
from finetune_pipeline.evaluation.preferences.judge import Judge, JudgeFindings, Pair
from finetune_pipeline.evaluation.preferences.people import Accepted, people_choices
from finetune_pipeline.evaluation.preferences.qualify import judged_pairs
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
from finetune_pipeline.spec.evaluation import JudgeSpec
from finetune_pipeline.spec.model import Task
from finetune_pipeline.training.facts import Compared

BY_JUDGE = " by the judge"


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What is said of a second stage by people; and by them and a trusted judge together, None without one."""

    people: Compared
    judge: Compared | None = None


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


def ask_judge(task: Task, refined: Artifact, judge: Judge, settings: JudgeSpec, secret: bytes) -> JudgeFindings:
    """Ask a judge about the rows of the sheet, and keep what it says if it agrees with people on those that they compared.

    What an earlier judge said goes, whatever comes of this one.

    Raises:
        EndpointError: The endpoint cannot be used, or answers too few questions.
    """
    file = task.folder / "reviews" / JUDGED_STAGE / f"{refined.version}.jsonl"
    file.unlink(missing_ok=True)
    name, sheet = second_stage_sheet(refined, secret)
    pairs = []
    for item in sheet:
        refined_is_a = candidate_is_a(secret, name, item.id)
        supervised, other = (item.b, item.a) if refined_is_a else (item.a, item.b)
        pairs.append(Pair(item.id, item.text, item.reference, supervised, other))
    rated = _ratings(task, SECOND_STAGE, secret).get(refined.version, {})
    findings = judged_pairs(judge, pairs, people_choices(rated), settings, task.spec.gates.confidence)
    if findings.verdict:
        ratings = []
        for row, choice in findings.verdict.choices.items():
            side = "A" if (choice == "b") == candidate_is_a(secret, name, row) else "B"
            if choice != "failed":
                ratings.append(Rating(name, row, "both" if choice == "tie" else side, settings.model).to_dict())
        file.parent.mkdir(parents=True, exist_ok=True)
        write_rows(file, ratings)
    return findings


def comparisons(task: Task, secret: bytes) -> dict[str, Comparisons]:
    """Return what people, and the declared judge, say of each second stage, by the version of its artifact."""
    judge = task.spec.evaluation.judge
    by_judge = _ratings(task, JUDGED_STAGE, secret, judge.model) if judge else {}
    kinds = 2 if judge else 1
    needed = kinds * 2 / (1 - task.spec.gates.confidence)
    found = {}
    for version, people in _ratings(task, SECOND_STAGE, secret).items():
        judged, both = by_judge.get(version, {}), None
        # ratings by people that were deleted since no longer speak for the judge
        if judge and judged and len(people) >= judge.min_rated:
            both = compared({**judged, **people}, needed, len(judged.keys() - people.keys()))
        found[version] = Comparisons(compared(people, needed), both)
    return found


def _ratings(task: Task, folder: str, secret: bytes, rater: str | None = None) -> dict[str, dict[str, Accepted]]:
    """Return which answers are accepted, by the stage's version and the row; rater: only this one's ratings."""
    by_version: dict[str, list[Rating]] = {}
    for rating in read_ratings(task.folder / "reviews", folder)[0]:
        if (name := read_sheet_name(rating.sheet)) and rater in (None, rating.rater):
            by_version.setdefault(name[0], []).append(rating)
    items = {}
    for version, ratings in by_version.items():
        drawn: dict[str, dict[str, str]] = {}
        for rating in ratings:
            drawn.setdefault(rating.sheet, {})[rating.id] = RANDOM
        items[version] = summarise(ratings, drawn, secret).items
    return items


def compared(items: Mapping[str, Accepted], needed: float, judged: int = 0) -> Compared:
    """Weigh ratings, in which the refined model is the candidate and the supervised one the base. The better answer of two is
    the only one that is accepted.

    Args:
        needed: Evidence from which on the preference is sure.
        judged: How many of them are a judge's.
    """
    losses = [item.base - item.candidate for item in items.values()]
    return Compared(
        rated=len(losses),
        judged=judged,
        refined=losses.count(-1),
        supervised=losses.count(1),
        evidence=float(not_worse_evidence(losses, 0.0)[-1]) if losses else 1.0,
        needed=needed,
    )


def preferred(found: Mapping[str, Comparisons]) -> list[str]:
    """Return the second stages whose answers are surely preferred, and whether only the judge makes it sure. Ratings that decide
    nothing make no new model."""
    by_people = [version for version, each in found.items() if each.people.surely_better]
    by_judge = [
        version + BY_JUDGE
        for version, each in found.items()
        if version not in by_people and each.judge is not None and each.judge.surely_better
    ]
    return sorted([*by_people, *by_judge])
