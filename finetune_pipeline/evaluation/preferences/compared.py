"""What a judge and embeddings say of base and candidate on the test, as facts for the report; a judge only if believed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from finetune_pipeline.evaluation.preferences.judge import Judge
from finetune_pipeline.evaluation.preferences.likeness import Likeness, likeness
from finetune_pipeline.evaluation.preferences.pairs import Choice, Pair
from finetune_pipeline.evaluation.preferences.qualify import DEFAULT, Qualification, Standards, judged, qualify
from finetune_pipeline.evaluation.statistics import paired_bootstrap_mean

SHOWN_FAILURES = 20
_PLACES: dict[tuple[bool, bool], Choice] = {(True, False): "b", (False, True): "a"}


def people_choices(items: Mapping[str, Mapping[str, bool]]) -> dict[str, Choice]:
    """What people prefer by example, from whether they accept either answer (people.summary.summarise: `items`): `b` is
    the candidate; both or neither is a tie."""
    return {i: _PLACES.get((told["candidate"], told["base"]), "tie") for i, told in items.items()}


def judged_pairs(
    judge: Judge, pairs: Sequence[Pair], people: Mapping[str, Choice], rows: int, standards: Standards = DEFAULT
) -> dict[str, Any]:
    """Qualify a judge by the pairs people rated; if it passes, ask it about up to `rows` of all pairs, drawn by their id.

    Answers that are equal are not shown to it: they prove nothing about the judge, and are ties in the verdict. Returns
    the fields of :class:`Qualification` but passed, believed, equal (rated pairs that were left out so), verdict (None, or
    statistics.sign_test of candidate against base, `failed`, `equal` and `choices` by id), failures, spent.
    """
    rated = [pair for pair in pairs if pair.id in people]
    differing = [pair for pair in rated if pair.a != pair.b]
    found = qualify(judge, differing, [people[pair.id] for pair in differing], standards)
    return {
        **_told(found),
        "equal": len(rated) - len(differing),
        "verdict": _verdict(judge, found, sorted(pairs, key=_drawn)[:rows]) if found.passed else None,
        "failures": judge.failures[:SHOWN_FAILURES],
        "spent": judge.spent.to_dict(),
    }


def _told(found: Qualification) -> dict[str, Any]:
    return {**asdict(found), "believed": found.passed, "refused": list(found.refused)}


def _verdict(judge: Judge, found: Qualification, pairs: Sequence[Pair]) -> dict[str, Any]:
    told = judged(judge, found, [pair for pair in pairs if pair.a != pair.b])
    kept = ("wins", "losses", "ties", "n", "share", "interval", "p", "failed", "choices")
    return {**{key: told[key] for key in kept}, "equal": sum(pair.a == pair.b for pair in pairs)}


def _drawn(pair: Pair) -> bytes:
    return hashlib.sha256(f"judged {pair.id}".encode()).digest()


def similar(pairs: Sequence[Pair], people: Mapping[str, Choice], model: str, confidence: float) -> dict[str, Any]:
    """Mean cosine similarity to the reference of base and candidate, the gain with a paired bootstrap interval, and how
    far preferring the nearer answer agrees with people: {model, n, base, candidate, gain, interval, rated, kappa,
    kappa_interval}; kappa is None where nobody rated or it is undefined.

    Raises FileNotFoundError or ValueError where the model is missing or is none, or there are fewer than two pairs.
    """
    references = [pair.reference for pair in pairs]
    base, candidate = (likeness([getattr(pair, side) for pair in pairs], references, model) for side in ("a", "b"))
    differing = [pair for pair in pairs if pair.id in people and pair.a != pair.b]
    found = qualify(Likeness(model), differing, [people[p.id] for p in differing], Standards(rated=1))
    means = [sum(values) / len(values) for values in (base, candidate)]
    return {
        "model": model,
        "n": len(pairs),
        "base": means[0],
        "candidate": means[1],
        "gain": means[1] - means[0],
        "interval": list(paired_bootstrap_mean(base, candidate, confidence=confidence)),
        "rated": found.rated,
        "kappa": found.kappa,
        "kappa_interval": found.interval,
    }
