"""Reads ratings from JSON Lines files, and summarises them: shares of acceptable answers, their difference, and
agreement. Every faulty line is reported and affects no other line."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from finetune_pipeline.data.json_lines import digest_files, json_rows
from finetune_pipeline.data.review import RATINGS
from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.preferences.people import Accepted, AcceptedShare, Agreement, Comment, People, Ratings
from finetune_pipeline.evaluation.statistics.proportions import (
    cluster_sign_flip,
    clustered_share,
    clustered_tango_interval,
)
from finetune_pipeline.evaluation.statistics.resampling import cohens_kappa
from finetune_pipeline.faults import visible_files
from finetune_pipeline.findings import Finding
from finetune_pipeline.review.sheet import CHOICES, RANDOM, SELECTED, candidate_is_a, read_sheet_name

COLUMNS = ("sheet", "id", "text", "reference", "answer_a", "answer_b", "choice", "comment", "rater", "time")
"""Keys of a sheet; the first two and the last four are returned."""
LONGEST = 4000


@dataclass(frozen=True, slots=True)
class Rating:
    """One person's choice for one item of a sheet: which side is acceptable (one of CHOICES). time: RFC 3339, or empty."""

    sheet: str
    id: str
    choice: str
    rater: str
    comment: str = ""
    time: str = ""

    def to_dict(self) -> dict[str, str]:
        return {k: v for k in self.__slots__ if (v := getattr(self, k)) or k not in ("comment", "time")}


def ratings_digest(reviews: Path) -> str:
    """Return the hex SHA-256 of the rating files' names and contents."""
    return digest_files(visible_files(reviews / RATINGS))


def parse_rating(row: Any) -> tuple[Rating | None, list[str]]:
    """Parse a rating. Returns (the rating or None, problems). An empty choice, of an item not rated yet, is not a problem."""
    if not isinstance(row, Mapping):
        return None, ["it is not an object"]
    keys = ("sheet", "id", "choice", "rater", "comment", "time")
    values = {key: "" if row.get(key) is None else row[key] for key in keys}
    problems = [f"`{key}` must be text, found {value!r}" for key, value in values.items() if not isinstance(value, str)]
    if problems:
        return None, problems
    fields = {key: value.strip() for key, value in values.items()}
    if not fields["choice"]:
        return None, []
    choice = {"a": "A", "b": "B"}.get(fields["choice"].lower(), fields["choice"].lower())
    if choice not in CHOICES:
        problems.append(f"`choice` is {fields['choice']!r}, not one of {', '.join(CHOICES)}")
    if read_sheet_name(fields["sheet"]) is None:
        problems.append(f"`sheet` is {fields['sheet']!r}, which is not the name of a sheet")
    problems += [f"`{key}` is missing" for key in ("id", "rater") if not fields[key]]
    problems += [f"`{key}` has more than {LONGEST} characters" for key, text in fields.items() if len(text) > LONGEST]
    if fields["time"]:
        try:
            datetime.fromisoformat(fields["time"])
        except ValueError:
            problems.append(f"`time` is {fields['time']!r}, not an RFC 3339 time")
    return (None, problems) if problems else (Rating(**{**fields, "choice": choice}), [])


def read_ratings(reviews: Path, folder: str = RATINGS) -> tuple[list[Rating], list[Finding]]:
    """Read all ratings of a folder of reviews: (the last rating of each rater for each item of each sheet, findings). Files are
    read by name, lines in order. If a rater rated an item repeatedly, the latest time is used; a rating without a time is the
    oldest."""
    last: dict[tuple[str, str, str], Rating] = {}
    findings: list[Finding] = []
    for name, path in visible_files(reviews / folder):
        file = f"reviews/{folder}/{name}"
        try:
            rows = list(table_rows(path))
        except (OSError, ValueError) as error:
            findings.append(_finding(file, f"the file cannot be read: {error}"))
            continue
        for number, row, syntax_problem in rows:
            rating, problems = (None, [syntax_problem]) if syntax_problem else parse_rating(row)
            findings += [_finding(f"{file}:{number}", problem) for problem in problems]
            if rating:
                key = (rating.sheet, rating.id, rating.rater)
                if key not in last or _instant(rating) >= _instant(last[key]):
                    last[key] = rating
    return list(last.values()), findings


def _instant(rating: Rating) -> datetime:
    time = datetime.fromisoformat(rating.time) if rating.time else datetime.min
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def table_rows(path: Path) -> Iterator[tuple[int, Any, str]]:
    """Yield (line number, row, its problem, if any) of a JSON Lines file. Raises OSError, or ValueError for other suffixes."""
    if path.suffix != ".jsonl":
        raise ValueError(f"{path.name} is not named .jsonl")
    yield from json_rows(path)


def _finding(place: str, message: str) -> Finding:
    fix = f'write {{"sheet": …, "id": …, "choice": {" | ".join(CHOICES)}, "rater": …}}; this line was not counted'
    return Finding("people.rating", "warning", place, message, fix)


SHOWN = 40
"""Number of comments in the summary."""


def acceptable(rating: Rating, secret: bytes) -> Accepted:
    """Return which models' answers a rating accepts. secret: decides which side of an item is the candidate's."""
    sides = {"A": rating.choice in ("A", "both"), "B": rating.choice in ("B", "both")}
    candidate_side = "A" if candidate_is_a(secret, rating.sheet, rating.id) else "B"
    return Accepted(candidate=sides[candidate_side], base=sides["B" if candidate_side == "A" else "A"])


def summarise(
    ratings: Sequence[Rating],
    drawn: Mapping[str, Mapping[str, str]],
    secret: bytes,
    confidence: float = 0.95,
    sources: SourceOf = None,
) -> People:
    """Summarise the ratings of one candidate.

    drawn: per sheet, its examples and how each was drawn (:func:`.sheet.draw`). Ratings of other sheets, and of examples that
    are not on their sheet, are counted as `unknown`. An item rated by several people is acceptable if more than half say
    so. sources: the source of each example, by id; intervals and p count sources.
    """
    votes: dict[str, list[tuple[Rating, Accepted]]] = defaultdict(list)
    draw_kind: dict[str, str] = {}
    unknown = 0
    for rating in ratings:
        how_drawn = drawn.get(rating.sheet, {}).get(rating.id)
        if how_drawn is None:
            unknown += 1
            continue
        # an example that a later, larger sheet drew at random was not selected as a likely failure there
        draw_kind[rating.id] = RANDOM if RANDOM in (how_drawn, draw_kind.get(rating.id)) else SELECTED
        votes[rating.id].append((rating, acceptable(rating, secret)))
    items = {
        example: Accepted(
            candidate=2 * sum(accepted.candidate for _, accepted in pairs) > len(pairs),
            base=2 * sum(accepted.base for _, accepted in pairs) > len(pairs),
        )
        for example, pairs in votes.items()
    }
    by_kind: dict[str, dict[str, Accepted]] = {RANDOM: {}, SELECTED: {}}
    for example, accepted in items.items():
        by_kind[draw_kind[example]][example] = accepted
    comments = [
        Comment(id=example, rater=r.rater, comment=r.comment, candidate=v.candidate, base=v.base)
        for example, pairs in sorted(votes.items())
        for r, v in pairs
        if r.comment
    ]
    return People(
        rated=len(items),
        unknown=unknown,
        raters=dict(sorted(Counter(r.rater for pairs in votes.values() for r, _ in pairs).items())),
        confidence=confidence,
        random=_summarise_items(by_kind[RANDOM], confidence, sources, with_shares=True),
        selected=_summarise_items(by_kind[SELECTED], confidence, sources, with_shares=False),
        agreement=_agreement(votes),
        comments=comments[:SHOWN],
        items=items,
    )


def _summarise_items(
    items: Mapping[str, Accepted], confidence: float, sources: SourceOf, *, with_shares: bool
) -> Ratings | None:
    if not items:
        return None
    n, pairs = len(items), Counter((item.candidate, item.base) for item in items.values())
    won, lost = pairs[True, False], pairs[False, True]
    ratings = Ratings(n=n, only_candidate=won, only_base=lost, both=pairs[True, True], neither=pairs[False, False])
    if not with_shares:
        return ratings
    units = [example if sources is None else sources[example] for example in items]
    base, candidate = [float(a.base) for a in items.values()], [float(a.candidate) for a in items.values()]

    def share(accepted: list[float]) -> AcceptedShare:
        interval = clustered_share(accepted, units, confidence)[0]
        return AcceptedShare(acceptable=int(sum(accepted)), share=sum(accepted) / n, interval=interval)

    return replace(
        ratings,
        candidate=share(candidate),
        base=share(base),
        gain=(won - lost) / n,
        interval=clustered_tango_interval(base, candidate, units, confidence),
        p=cluster_sign_flip([c - b for b, c in zip(base, candidate, strict=True)], units),
    )


def _agreement(votes: Mapping[str, Sequence[tuple[Rating, Accepted]]]) -> Agreement | None:
    """Return the agreement on answers rated by two or more people, over all pairs of raters, and Cohen's kappa."""
    several = (votes_of_item for votes_of_item in votes.values() if len(votes_of_item) > 1)
    rated_by_several = [sorted(votes_of_item, key=lambda vote: vote[0].rater) for votes_of_item in several]
    pairs = [
        pair
        for by_rater in rated_by_several
        for (_, first), (_, second) in combinations(by_rater, 2)
        for pair in ((first.candidate, second.candidate), (first.base, second.base))
    ]
    if not pairs:
        return None
    kappa = cohens_kappa(*zip(*pairs, strict=True))
    share = sum(a == b for a, b in pairs) / len(pairs)
    return Agreement(items=len(rated_by_several), share=share, kappa=kappa)
