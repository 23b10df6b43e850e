"""Review of synthetic rows: which ones people must check before training, and whether the set is then accepted.

Acceptance sampling by attributes, single sampling plans (Dodge and Romig 1929; ISO 2859-1): how many bad rows a sample may
have for the whole to be taken. Chances are binomial, which for a finite set errs on the safe side.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.data.examples import Example, hash_order
from finetune_pipeline.data.quality.parts import named, part
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.data import SyntheticSpec
from finetune_pipeline.spec.model import TaskSpec

UNKNOWN = "unknown"
_REJECTING = ("drop", "relabel")
_MOST_REVIEWED = 10_000


def chance_of_acceptance(n: int, c: int, rate: float) -> float:
    """Chance that a sample of `n` has at most `c` bad rows when the share `rate` of all rows is bad."""
    from scipy.stats import binom

    return float(binom.cdf(c, n, rate)) if c >= 0 else 0.0


def acceptance_number(n: int, intolerable: float, risk: float) -> int:
    """The largest c < n with chance_of_acceptance(n, c, intolerable) <= risk; -1 when the sample is too small for any."""
    from scipy.stats import binom

    return int(np.searchsorted(binom.cdf(np.arange(n), n, intolerable), risk, side="right")) - 1


def smallest_sample(intolerable: float, risk: float) -> int | None:
    """Rows of the smallest sample that can accept anything: (1 - intolerable)^n <= risk. None when there is none."""
    if not 0 < intolerable < 1:
        return None if intolerable <= 0 else 1
    n = math.ceil(math.log(risk) / math.log1p(-intolerable))
    return n if (1 - intolerable) ** n <= risk else n + 1


def fair_sample(acceptable: float, intolerable: float, risk: float) -> tuple[int, int] | None:
    """(n, c) of the smallest plan wrong with at most `risk` at either level; None when there is none up to 10,000 rows."""
    c, n = 0, 1
    while acceptable < intolerable and n <= _MOST_REVIEWED:
        if chance_of_acceptance(n, c, intolerable) > risk:
            n += 1
        elif chance_of_acceptance(n, c, acceptable) >= 1 - risk:
            return n, c
        else:
            c += 1
    return None


def exact_interval(bad: int, n: int, confidence: float = 0.95) -> list[float]:
    """Clopper-Pearson interval of a share (Clopper and Pearson 1934). [0, 1] without rows."""
    from scipy.stats import binomtest

    if not n:
        return [0.0, 1.0]
    interval = binomtest(bad, n).proportion_ci(confidence, "exact")
    return [round(float(interval.low), 6), round(float(interval.high), 6)]


def sample_size(rows: int, spec: SyntheticSpec) -> int:
    """Rows to review of `rows`: review_share of them, but never fewer than the smallest sample that can prove anything.

    0 when there are none or review_share is 0; all rows when no sample can satisfy the risk.
    """
    if not rows or not spec.review_share:
        return 0
    least = smallest_sample(spec.intolerable_rejected, spec.risk) or rows
    return min(rows, max(math.ceil(spec.review_share * rows - 1e-9), least))  # 0.1 * 30 is 3.0000000000000004


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
    """Rows to review of each generator, by largest remainders."""
    n, total = sample_size(sum(sizes.values()), spec), max(1, sum(sizes.values()))
    exact = {name: n * size / total for name, size in sizes.items()}
    shares = {name: max(math.floor(of + 1e-9), 1 if n >= len(sizes) else 0) for name, of in exact.items()}
    while sum(shares.values()) != n:
        step = 1 if sum(shares.values()) < n else -1
        free = [name for name in sizes if (shares[name] < sizes[name] if step > 0 else shares[name] > 1)]
        shares[min(free, key=lambda name: (step * (shares[name] - exact[name]), name))] += step
    return shares


def _by_cluster(rows: Sequence[Example], clusters: Mapping[str, str]) -> list[Example]:
    """Rows by hash, but the second of a cluster only after the first of every cluster, and so on."""
    seen: Counter[str] = Counter()
    keyed = []
    for place, e in enumerate(sorted(rows, key=lambda e: (hash_order(e.id, "review"), e.id))):
        cluster = clusters.get(e.id, e.id)
        keyed.append((seen[cluster], place, e))
        seen[cluster] += 1
    return [e for _, _, e in sorted(keyed, key=lambda k: k[:2])]


def to_review_lines(sample: Iterable[Example]) -> list[str]:
    """One JSON line per row for a person to fill in: `decision` (keep, drop or relabel), `label` for relabel, `reviewer`.

    Filled in, the file belongs into the task's reviews folder. Lines whose decision is empty decide nothing.
    """
    empty = dict.fromkeys(("decision", "label", "reviewer", "comment"), "")
    lines = []
    for e in sample:
        row = {
            "id": e.id,
            "place": e.place,
            "generator": e.generator or UNKNOWN,
            "text": e.user_text,
            "answer": e.answer,
        }
        lines.append(msgspec.json.encode({**row, **empty}).decode() + "\n")
    return lines


def synthetic_rows(
    examples: Sequence[Example],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: TaskSpec,
    of: int | None = None,
) -> dict[str, Any]:
    """The synthetic part of the report; blocking: training must wait until the sample is decided, and is accepted.

    A set all of whose rows were reviewed is accepted whatever was found: its bad rows are out or corrected.

    Args:
        examples: Rows before review.
        clusters: {id: near-duplicate cluster}.
        decisions: {id: keep, drop or relabel}. `drop` and `relabel` reject a row, `keep` accepts it.
        spec: The task.
        of: How many rows there are, when `examples` are only the synthetic ones.

    Returns:
        A part of the report with verdict (``none``: no synthetic rows, ``off``: review_share is 0, ``waiting``,
        ``accepted``, ``rejected``), counts, plan (n, c, consumer_risk: chance to accept at intolerable_rejected,
        producer_risk: chance to reject at acceptable_rejected, fair_n: rows of the smallest sample with both chances within
        the risk, curve), rejected_interval (95% Clopper-Pearson, of the rejected share), and the same per generator.
    """
    rules, total = spec.data.synthetic, len(examples) if of is None else of
    rows = [e for e in examples if e.origin == "synthetic"]
    sample = review_sample(examples, clusters, rules)
    decided = [e for e in sample if e.id in decisions]
    rejected = [e for e in decided if decisions[e.id] in _REJECTING]
    waiting = [e for e in sample if e.id not in decisions]
    n, bad = len(sample), len(rejected)
    c = acceptance_number(n, rules.intolerable_rejected, rules.risk) if n else -1
    everything = bool(rows) and all(e.id in decisions for e in rows)
    share = f"{len(rows):,} of {total:,} rows are synthetic ({len(rows) / max(1, total):.1%})"
    findings = []
    if not rows:
        verdict, message = "none", "no synthetic rows"
    elif not sample:
        verdict, message = "off", f"{share}; none is reviewed, because data.synthetic.review_share is 0"
    elif waiting:
        undecided = f"{len(waiting):,} of the {n:,} to be reviewed have no decision yet: training waits for people"
        verdict, message = "waiting", f"{share}; {undecided}"
        fix = "fill in the review sample (decision and reviewer of each line) and put it into reviews/"
        findings.append(Finding("quality.synthetic_unreviewed", "error", waiting[0].place, message, fix))
    elif everything:
        verdict, message = "accepted", f"{share}; all were reviewed, {bad:,} of {n:,} sampled ones dropped or corrected"
    else:
        allowed = f"at most {c}" if c >= 0 else "a larger sample"
        verdict = "accepted" if bad <= c else "rejected"
        message = f"{share}; {bad:,} of {n:,} reviewed ones were rejected, {allowed} may be for the set to be accepted"
        if verdict == "rejected":
            fix = "leave out or make anew the rows of the generator that fails, or review every synthetic row"
            findings.append(Finding("quality.synthetic_rejected", "error", rejected[0].place, message, fix))
    return part(
        verdict in ("none", "off", "accepted"),
        message,
        blocking=True,
        findings=findings,
        applies=verdict not in ("none", "off"),
        verdict=verdict,
        rows=len(rows),
        share=round(len(rows) / total, 6) if total else 0.0,
        sample=n,
        review_share=rules.review_share,
        decided=len(decided),
        rejected=bad,
        waiting=named(waiting),
        plan=_plan(n, c, rules) if n else None,
        rejected_interval=exact_interval(bad, len(decided)),
        rejected_rows=named(rejected),
        generators=_generators(rows, sample, decisions),
    )


def _plan(n: int, c: int, rules: SyntheticSpec) -> dict[str, Any]:
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
    }


def _generators(
    rows: Sequence[Example], sample: Sequence[Example], decisions: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Rows, sample and decisions of each generator, the most frequent first."""
    counts = Counter(e.generator or UNKNOWN for e in rows)
    generators = []
    for name, n in most_first(counts).items():
        own = [e for e in sample if (e.generator or UNKNOWN) == name]
        decided = [decisions[e.id] for e in own if e.id in decisions]
        bad = sum(decision in _REJECTING for decision in decided)
        numbers = {"rows": n, "sample": len(own), "decided": len(decided), "rejected": bad}
        generators.append({"generator": name, **numbers, "interval": exact_interval(bad, len(decided))})
    return generators
