"""Tests whether a judging model is reliable: agreement with people, no bias towards position or length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from finetune_pipeline.evaluation.preferences.judge import (
    Choice,
    Judge,
    Likeness,
    Pair,
    Preference,
    both_ways,
    likeness,
)
from finetune_pipeline.evaluation.statistics.agreement import cohens_kappa, kappa_interval
from finetune_pipeline.evaluation.statistics.proportions import sign_test
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean
from finetune_pipeline.evaluation.wording import counted, percent

SURE = 0.05
PROBES = 20
_PADDING = (
    " To put this into a wider context, it may be helpful to bear in mind that every request is looked at with care, and "
    "that further details can be provided at any time should they be needed. Please do not hesitate to get in touch again."
)


@dataclass(frozen=True, slots=True)
class Standards:
    """What is asked of a judge. kappa, kappa_bound: agreement with people and its lower bound: by default `substantial`,
    and surely more than `fair` (Landis and Koch 1977). consistent: share of pairs judged alike in both orders."""

    rated: int = 30
    kappa: float = 0.6
    kappa_bound: float = 0.4
    consistent: float = 0.8


DEFAULT = Standards()


@dataclass(frozen=True, slots=True)
class Qualification:
    """What was found about a judge. kappa, interval: agreement with people; consistent: share judged alike in both
    orders; place, length, padding: sign tests of the place, of errors towards the longer answer, and of answers with
    words added that say nothing; refused: every reason why not to believe it, empty when there is none."""

    name: str
    rated: int
    failed: int
    kappa: float | None
    interval: tuple[float, float] | None
    agreement: float | None
    consistent: float | None
    place: Mapping[str, Any]
    length: Mapping[str, Any]
    padding: Mapping[str, Any]
    refused: tuple[str, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return not self.refused


def qualify(
    judge: Preference, pairs: Sequence[Pair], people: Sequence[Choice], standards: Standards = DEFAULT
) -> Qualification:
    """Ask a judge about pairs that people have rated, in both orders, and about the same answers with padding.

    people: their choice per pair (a, b or tie). With fewer pairs than asked for, nothing is asked. Raises ValueError when there
    is not one choice a pair.
    """
    if len(pairs) != len(people) or "failed" in people:
        raise ValueError(f"{len(pairs)} pairs and {len(people)} ratings of people: there must be one choice a pair")
    if len(pairs) < standards.rated:
        few = f"people have rated only {counted(len(pairs), 'pair')} of different answers; {standards.rated} are needed"
        nothing = sign_test(0, 0)
        return Qualification(judge.name, 0, 0, None, None, None, None, nothing, nothing, nothing, (few,))
    answers = both_ways(judge, pairs)
    sound = [i for i, answer in enumerate(answers) if answer.choice != "failed"]
    theirs, ours = [people[i] for i in sound], [answers[i].choice for i in sound]
    consistent = sum(answers[i].first == answers[i].second for i in sound) / len(sound) if sound else None
    orders = [(answers[i].first, answers[i].second) for i in sound]
    first, last = orders.count(("a", "b")), orders.count(("b", "a"))
    result = Qualification(
        name=judge.name,
        rated=len(sound),
        failed=len(pairs) - len(sound),
        kappa=cohens_kappa(theirs, ours) if sound else None,
        interval=kappa_interval(theirs, ours) if sound else None,
        agreement=sum(x == y for x, y in zip(theirs, ours, strict=True)) / len(sound) if sound else None,
        consistent=consistent,
        place=sign_test(first, last),
        length=_length([pairs[i] for i in sound], theirs, ours),
        padding=_padding(judge, [pairs[i] for i in sound][:PROBES]),
    )
    return replace(result, refused=tuple(_reasons(result, standards)))


def _length(pairs: Sequence[Pair], theirs: Sequence[Choice], ours: Sequence[Choice]) -> dict[str, Any]:
    """Sign test of the judge's errors: towards the longer answer against towards the shorter one."""
    longer = shorter = 0
    for pair, wanted, said in zip(pairs, theirs, ours, strict=True):
        if said in (wanted, "tie") or len(pair.a) == len(pair.b):
            continue
        if (said == "a") == (len(pair.a) > len(pair.b)):
            longer += 1
        else:
            shorter += 1
    return sign_test(longer, shorter)


def _padding(judge: Preference, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Sign test of an answer with empty words added (wins) against the same answer without them."""
    probes = [replace(p, a=p.a, b=p.a + _PADDING) for p in pairs]
    choices = [one.choice for one in both_ways(judge, probes)]
    return sign_test(choices.count("b"), choices.count("a"), choices.count("tie"))


def _reasons(q: Qualification, asked: Standards) -> list[str]:
    reasons = []
    if q.rated < asked.rated:
        reasons.append(f"only {counted(q.rated, 'pair')} rated by people could be judged; {asked.rated} are needed")
    if q.failed > 0.1 * (q.rated + q.failed):
        reasons.append(f"{counted(q.failed, 'pair')} could not be judged")
    if q.kappa is None or q.interval is None:
        reasons.append("agreement with people is undefined: one of the two sides always says the same")
    elif q.kappa < asked.kappa or q.interval[0] < asked.kappa_bound:
        reasons.append(
            f"it agrees too little with people: kappa {q.kappa:.2f} ({q.interval[0]:.2f} to {q.interval[1]:.2f}), where "
            f"{asked.kappa:g} and a lower bound of {asked.kappa_bound:g} are asked for"
        )
    if q.consistent is not None and q.consistent < asked.consistent:
        reasons.append(
            f"it judges only {percent(q.consistent)} of the pairs alike in both orders; {percent(asked.consistent)} are "
            "asked for"
        )
    if q.place["p"] < SURE:
        where = "first" if q.place["wins"] > q.place["losses"] else "second"
        reasons.append(
            f"it prefers whatever stands {where}: {q.place['wins']} against {q.place['losses']} contradictions"
        )
    if q.length["p"] < SURE and q.length["wins"] > q.length["losses"]:
        reasons.append(
            f"where it is wrong it prefers the longer answer: {q.length['wins']} against {q.length['losses']}"
        )
    if q.padding["p"] < SURE and q.padding["wins"] > q.padding["losses"]:
        reasons.append(f"it prefers the same answer with empty words added, {q.padding['wins']} of {PROBES} times")
    return reasons


def judged(judge: Preference, qualification: Qualification, pairs: Sequence[Pair]) -> dict[str, Any]:
    """The judge's verdict on pairs: `b` against `a` as a sign test, `failed`, `equal` and `choices` by id.

    Raises ValueError when the judge did not qualify: its opinion is then worth nothing.
    """
    if not qualification.passed:
        raise ValueError(f"{qualification.name} is not to be believed: " + "; ".join(qualification.refused))
    differing = [pair for pair in pairs if pair.a != pair.b]
    choices = [one.choice for one in both_ways(judge, differing)]
    return {
        **sign_test(choices.count("b"), choices.count("a"), choices.count("tie")),
        "failed": choices.count("failed"),
        "choices": dict(zip([pair.id for pair in differing], choices, strict=True)),
        "equal": len(pairs) - len(differing),
    }


SHOWN_FAILURES = 20
_PLACES: dict[tuple[bool, bool], Choice] = {(True, False): "b", (False, True): "a"}


def people_choices(items: Mapping[str, Mapping[str, bool]]) -> dict[str, Choice]:
    """What people prefer by example, from whether they accept either answer (people.summary.summarise: `items`): `b` is
    the candidate; both or neither is a tie."""
    return {i: _PLACES.get((accepted["candidate"], accepted["base"]), "tie") for i, accepted in items.items()}


def judged_pairs(
    judge: Judge, pairs: Sequence[Pair], people: Mapping[str, Choice], rows: int, standards: Standards = DEFAULT
) -> dict[str, Any]:
    """Qualify a judge by the pairs people rated; if it passes, ask it about up to `rows` of all pairs, drawn by their id.

    Answers that are equal are not shown to it. Returns the fields of :class:`Qualification` but passed, believed, equal (rated
    pairs that were left out so), verdict (None, or statistics.sign_test of candidate against base, `failed`, `equal` and
    `choices` by id), failures, spent.
    """
    rated = [pair for pair in pairs if pair.id in people]
    differing = [pair for pair in rated if pair.a != pair.b]
    qualification = qualify(judge, differing, [people[pair.id] for pair in differing], standards)
    return {
        **asdict(qualification),
        "believed": qualification.passed,
        "refused": list(qualification.refused),
        "equal": len(rated) - len(differing),
        "verdict": judged(judge, qualification, sorted(pairs, key=_drawn)[:rows]) if qualification.passed else None,
        "failures": judge.failures[:SHOWN_FAILURES],
        "spent": judge.spent.to_dict(),
    }


def _drawn(pair: Pair) -> bytes:
    return hashlib.sha256(f"judged {pair.id}".encode()).digest()


def similar(pairs: Sequence[Pair], people: Mapping[str, Choice], model: str, confidence: float) -> dict[str, Any]:
    """Mean cosine similarity to the reference of base and candidate, the gain with a paired bootstrap interval, and how
    far preferring the nearer answer agrees with people; kappa is None where nobody rated or it is undefined.

    Raises FileNotFoundError or ValueError where the model is missing or is none, or there are fewer than two pairs.
    """
    references = [pair.reference for pair in pairs]
    base, candidate = (likeness([getattr(pair, side) for pair in pairs], references, model) for side in ("a", "b"))
    differing = [pair for pair in pairs if pair.id in people and pair.a != pair.b]
    qualification = qualify(Likeness(model), differing, [people[p.id] for p in differing], Standards(rated=1))
    means = [sum(values) / len(values) for values in (base, candidate)]
    return {
        "model": model,
        "n": len(pairs),
        "base": means[0],
        "candidate": means[1],
        "gain": means[1] - means[0],
        "interval": list(paired_bootstrap_mean(base, candidate, confidence=confidence)),
        "rated": qualification.rated,
        "kappa": qualification.kappa,
        "kappa_interval": qualification.interval,
    }
