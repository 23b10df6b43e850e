"""Rows a model has written: which of them people must look at before training, and what their decisions prove."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.acceptance import (
    acceptance_number,
    chance_of_acceptance,
    exact_interval,
    fair_sample,
    operating_curve,
    smallest_sample,
)
from finetune_pipeline.data.quality.sample import hash_order, named, part
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import SyntheticSpec, TaskSpec

UNKNOWN = "unknown"
CURVE_STEPS = 20
_REJECTING = ("drop", "relabel")


def sample_size(rows: int, spec: SyntheticSpec) -> int:
    """Rows to review of `rows`: review_share of them, but never fewer than the smallest sample that can prove anything.

    0 when there are none or review_share is 0; all rows when no sample can satisfy the risk.
    """
    if not rows or not spec.review_share:
        return 0
    least = smallest_sample(spec.intolerable_rejected, spec.risk)
    # 0.1 * 30 is 3.0000000000000004 in binary
    return min(rows, max(math.ceil(spec.review_share * rows - 1e-9), rows if least is None else least))


def review_sample(examples: Sequence[Example], clusters: Mapping[str, str], spec: SyntheticSpec) -> list[Example]:
    """The synthetic rows to review, stratified by generator and by cluster, in the order of the examples.

    Each generator has its share (largest remainders; one row at least where there are enough). Of a generator the rows
    come by the hash of their id, one per cluster until the clusters run out. So the choice is the same on every machine,
    and rows that are added change it little. `examples` must be the rows before review: a row that was dropped counts.
    """
    strata: dict[str, list[Example]] = defaultdict(list)
    for e in examples:
        if e.origin == "synthetic":
            strata[e.generator or UNKNOWN].append(e)
    shares = _allocate({name: len(rows) for name, rows in strata.items()}, spec)
    taken = {e.id for name, rows in strata.items() for e in _by_cluster(rows, clusters)[: shares[name]]}
    return [e for e in examples if e.origin == "synthetic" and e.id in taken]


def _allocate(sizes: Mapping[str, int], spec: SyntheticSpec) -> dict[str, int]:
    total = sum(sizes.values())
    n = sample_size(total, spec)
    exact = {name: n * size / total for name, size in sizes.items()}
    shares = {name: math.floor(of + 1e-9) for name, of in exact.items()}
    if n >= len(sizes):
        shares = {name: max(1, of) for name, of in shares.items()}
    order = sorted(sizes, key=lambda name: (shares[name] - exact[name], name))
    while sum(shares.values()) < n:
        name = min((x for x in order if shares[x] < sizes[x]), key=lambda x: (shares[x] - exact[x], x))
        shares[name] += 1
    while sum(shares.values()) > n:
        name = max((x for x in order if shares[x] > 1), key=lambda x: (shares[x] - exact[x], x))
        shares[name] -= 1
    return shares


def _by_cluster(rows: Sequence[Example], clusters: Mapping[str, str]) -> list[Example]:
    """Rows by hash, but the second of a cluster only after the first of every cluster, and so on."""
    ordered = sorted(rows, key=lambda e: (hash_order(e.id, "review"), e.id))
    turn: Counter[str] = Counter()
    keyed = []
    for place, e in enumerate(ordered):
        cluster = clusters.get(e.id, e.id)
        keyed.append((turn[cluster], place, e))
        turn[cluster] += 1
    return [e for _, _, e in sorted(keyed, key=lambda k: k[:2])]


def to_review_lines(sample: Iterable[Example]) -> list[str]:
    """One JSON line per row for a person to fill in: `decision` (keep, drop or relabel), `label` for relabel, `reviewer`.

    Filled in, the file belongs into the task's reviews folder. Lines whose decision is empty decide nothing.
    """
    return [
        msgspec.json.encode(
            {
                "id": e.id,
                "place": e.place,
                "generator": e.generator or UNKNOWN,
                "text": e.user_text,
                "answer": e.answer,
                "decision": "",
                "label": "",
                "reviewer": "",
                "comment": "",
            }
        ).decode()
        + "\n"
        for e in sample
    ]


def synthetic_rows(
    examples: Sequence[Example],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: TaskSpec,
    of: int | None = None,
) -> dict[str, Any]:
    """The synthetic part of the report; blocking: training must wait until the sample is decided, and is accepted.

    examples: rows before review; of: how many rows there are, when `examples` are only the synthetic ones; decisions:
    {id: keep, drop or relabel}. `drop` and `relabel` reject a row, `keep`
    accepts it. verdict: ``none`` (no synthetic rows), ``off`` (review_share 0), ``waiting``, ``accepted``, ``rejected``.
    A set all of whose rows were reviewed is accepted whatever was found: its bad rows are out or corrected.
    plan: n, c, consumer_risk (chance to accept at intolerable_rejected), producer_risk (chance to reject at
    acceptable_rejected), fair_n (rows of the smallest sample with both chances within the risk), curve. rejected_interval:
    95% Clopper-Pearson interval of the rejected rate; the same per generator.
    """
    rules, total = spec.data.synthetic, len(examples) if of is None else of
    rows = [e for e in examples if e.origin == "synthetic"]
    sample = review_sample(examples, clusters, rules)
    n, decided = len(sample), [e for e in sample if e.id in decisions]
    bad = [e for e in decided if decisions[e.id] in _REJECTING]
    waiting = [e for e in sample if e.id not in decisions]
    c = acceptance_number(n, rules.intolerable_rejected, rules.risk) if n else -1
    everything = bool(rows) and all(e.id in decisions for e in rows)
    verdict = _verdict(rows, sample, waiting, len(bad), c, everything)
    told = _message(verdict, rows, n, waiting, len(bad), c, everything, total)
    findings = []
    if verdict == "waiting":
        findings.append(
            Finding("quality.synthetic_unreviewed", "error", waiting[0].place, told,
                    "fill in the review sample (decision and reviewer of each line) and put it into reviews/")
        )  # fmt: skip
    elif verdict == "rejected":
        findings.append(
            Finding("quality.synthetic_rejected", "error", bad[0].place, told,
                    "leave out or make anew the rows of the generator that fails, or review every synthetic row")
        )  # fmt: skip
    return part(
        verdict in ("none", "off", "accepted"),
        told,
        blocking=True,
        findings=findings,
        applies=verdict not in ("none", "off"),
        verdict=verdict,
        rows=len(rows),
        share=round(len(rows) / total, 6) if total else 0.0,
        sample=n,
        review_share=rules.review_share,
        decided=len(decided),
        rejected=len(bad),
        waiting=named(waiting),
        decided_outside=sum(e.id in decisions for e in rows) - len(decided),
        plan=_plan(n, c, rules) if n else None,
        rejected_interval=[round(x, 6) for x in exact_interval(len(bad), len(decided))],
        rejected_rows=named(bad),
        generators=_generators(rows, sample, decisions),
    )


def _verdict(
    rows: Sequence[Example], sample: Sequence[Example], waiting: Sequence[Example], bad: int, c: int, everything: bool
) -> str:
    if not rows:
        return "none"
    if not sample:
        return "off"
    if waiting:
        return "waiting"
    return "accepted" if everything or bad <= c else "rejected"


def _message(
    verdict: str,
    rows: Sequence[Example],
    n: int,
    waiting: Sequence[Example],
    bad: int,
    c: int,
    everything: bool,
    total: int,
) -> str:
    if verdict == "none":
        return "no synthetic rows"
    share = f"{len(rows):,} of {total:,} rows are synthetic ({len(rows) / total:.1%})"
    if verdict == "off":
        return f"{share}; none is reviewed, because data.synthetic.review_share is 0"
    if verdict == "waiting":
        return f"{share}; {len(waiting):,} of the {n:,} to be reviewed have no decision yet: training waits for people"
    if everything:
        return f"{share}; all were reviewed, {bad:,} of {n:,} sampled ones dropped or corrected"
    allowed = f"at most {c}" if c >= 0 else "a larger sample"
    return f"{share}; {bad:,} of {n:,} reviewed ones were rejected, {allowed} may be for the set to be accepted"


def _plan(n: int, c: int, rules: SyntheticSpec) -> dict[str, Any]:
    top = min(1.0, 2 * rules.intolerable_rejected)
    rates = [round(top * i / CURVE_STEPS, 6) for i in range(CURVE_STEPS + 1)]
    curve = operating_curve(n, c, rates)
    fair = fair_sample(rules.acceptable_rejected, rules.intolerable_rejected, rules.risk)
    return {
        "n": n,
        "c": c,
        "acceptable": rules.acceptable_rejected,
        "intolerable": rules.intolerable_rejected,
        "risk": rules.risk,
        "consumer_risk": round(chance_of_acceptance(n, c, rules.intolerable_rejected), 6),
        "producer_risk": round(1 - chance_of_acceptance(n, c, rules.acceptable_rejected), 6),
        "fair_n": fair[0] if fair else None,
        "curve": [{"rate": point["rate"], "accept": round(point["accept"], 6)} for point in curve],
    }


def _generators(
    rows: Sequence[Example], sample: Sequence[Example], decisions: Mapping[str, str]
) -> list[dict[str, Any]]:
    counts = Counter(e.generator or UNKNOWN for e in rows)
    told = []
    for name, n in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])):
        mine = [e for e in sample if (e.generator or UNKNOWN) == name]
        decided = [decisions[e.id] for e in mine if e.id in decisions]
        bad = sum(d in _REJECTING for d in decided)
        told.append(
            {
                "generator": name,
                "rows": n,
                "sample": len(mine),
                "decided": len(decided),
                "rejected": bad,
                "interval": [round(x, 6) for x in exact_interval(bad, len(decided))],
            }
        )
    return told
