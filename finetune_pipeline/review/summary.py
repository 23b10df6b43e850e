"""Statistics of people's ratings: shares of acceptable answers, the paired difference, and agreement between raters."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from finetune_pipeline.evaluation.statistics import cohens_kappa, mcnemar_exact, tango_interval, wilson_interval
from finetune_pipeline.review.ratings import Rating
from finetune_pipeline.review.sheet import RANDOM, SELECTED, candidate_is_a

SHOWN = 40


def acceptable(rating: Rating, secret: bytes) -> dict[str, bool]:
    """Which models' answers the rater took: {candidate, base}."""
    sides = {"A": rating.choice in ("A", "both"), "B": rating.choice in ("B", "both")}
    own = "A" if candidate_is_a(secret, rating.sheet, rating.id) else "B"
    return {"candidate": sides[own], "base": sides["B" if own == "A" else "A"]}


def summarise(
    ratings: Sequence[Rating], drawn: Mapping[str, Mapping[str, str]], secret: bytes, confidence: float = 0.95
) -> dict[str, Any]:
    """Facts about the ratings of one candidate.

    drawn: per sheet, the examples on it and how each was drawn (:func:`.sheet.draw`). Ratings of other sheets and of
    examples that are not on theirs are counted as `unknown`. An item rated by several people is acceptable when more than
    half of them say so.

    Returns rated, unknown, raters {name: items}, random and selected (each None, or {n, only_candidate, only_base, both,
    neither}; random also candidate and base {acceptable, share, interval}, gain, interval (Tango), p (exact sign test)),
    agreement (None, or {items, kappa, share} over the items two people rated), comments [{id, candidate, base, comment,
    rater}], items {example id: {candidate, base}}.
    """
    votes: dict[str, list[tuple[Rating, dict[str, bool]]]] = defaultdict(list)
    how: dict[str, str] = {}
    unknown = 0
    for rating in ratings:
        on_sheet = drawn.get(rating.sheet, {}).get(rating.id)
        if on_sheet is None:
            unknown += 1
            continue
        # an example that a later, larger sheet drew at random was not picked for its looks there either
        how[rating.id] = RANDOM if RANDOM in (on_sheet, how.get(rating.id)) else SELECTED
        votes[rating.id].append((rating, acceptable(rating, secret)))
    items = {
        example: {name: sum(v[name] for _, v in rated) * 2 > len(rated) for name in ("candidate", "base")}
        for example, rated in votes.items()
    }
    return {
        "rated": len(items),
        "unknown": unknown,
        "raters": dict(sorted(Counter(r.rater for rated in votes.values() for r, _ in rated).items())),
        "confidence": confidence,
        RANDOM: _half([items[i] for i in items if how[i] == RANDOM], confidence, rate=True),
        SELECTED: _half([items[i] for i in items if how[i] == SELECTED], confidence, rate=False),
        "agreement": _agreement(votes),
        "comments": [
            {"id": example, "rater": r.rater, "comment": r.comment, **v}
            for example, rated in sorted(votes.items())
            for r, v in rated
            if r.comment
        ][:SHOWN],
        "items": items,
    }


def _half(items: Sequence[Mapping[str, bool]], confidence: float, *, rate: bool) -> dict[str, Any] | None:
    if not items:
        return None
    n = len(items)
    pairs = Counter((i["candidate"], i["base"]) for i in items)
    won, lost = pairs[True, False], pairs[False, True]
    counts: dict[str, Any] = {
        "n": n,
        "only_candidate": won,
        "only_base": lost,
        "both": pairs[True, True],
        "neither": pairs[False, False],
    }
    if rate:
        for name in ("candidate", "base"):
            k = sum(i[name] for i in items)
            counts[name] = {"acceptable": k, "share": k / n, "interval": list(wilson_interval(k, n, confidence))}
        counts |= {
            "gain": (won - lost) / n,
            "interval": list(tango_interval(lost, won, n, confidence)),
            "p": mcnemar_exact(lost, won),
        }
    return counts


def _agreement(votes: Mapping[str, Sequence[tuple[Rating, dict[str, bool]]]]) -> dict[str, Any] | None:
    """Over every answer two people judged: how often they agree, and Cohen's kappa (over pairs of raters, in order of
    name)."""
    first: list[bool] = []
    second: list[bool] = []
    items = 0
    for votes_of_item in votes.values():
        ordered = sorted(votes_of_item, key=lambda left: left[0].rater)
        items += len(ordered) > 1
        for (_, left), (_, right) in combinations(ordered, 2):
            for name in ("candidate", "base"):
                first.append(left[name])
                second.append(right[name])
    if not items:
        return None
    same = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    return {"items": items, "share": same, "kappa": cohens_kappa(first, second)}
