"""Acceptance sampling of synthetic rows: which rows people must review, and whether the set is then accepted.

Acceptance sampling by attributes with single sampling plans (Dodge and Romig 1929; ISO 2859-1) determines how many bad rows a
sample may have for the set to be accepted. The probabilities are binomial, which is conservative for a finite set.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from finetune_pipeline.data.examples import Example, hash_order
from finetune_pipeline.data.quality.parts import Part, Place, named
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.data import SyntheticSpec
from finetune_pipeline.spec.model import TaskSpec

UNKNOWN = "unknown"
_REJECTING = ("drop", "relabel")


class Generator(Facts, frozen=True, kw_only=True):
    """Rows of a generator, how many of them are in the sample, and how many of these were decided and rejected."""

    generator: str
    rows: int
    sample: int
    decided: int
    rejected: int


class SyntheticPart(Part, frozen=True, kw_only=True, omit_defaults=False):
    """The synthetic rows: how many there are, are in the sample, were decided and rejected, and may be rejected at most (`allowed`,
    -1: the sample is too small)."""

    verdict: Literal["none", "off", "waiting", "accepted", "rejected"]
    rows: int
    sample: int
    allowed: int
    decided: int
    rejected: int
    waiting: list[Place]
    rejected_rows: list[Place]
    generators: list[Generator]


def acceptance_number(n: int, intolerable: float, risk: float) -> int:
    """Return the largest c < n such that, if a share of `intolerable` of all rows is bad, a sample of `n` rows has c or fewer
    bad ones with a probability of at most `risk`; -1 if the sample is too small for any c."""
    from scipy.stats import binom

    return int(np.searchsorted(binom.cdf(np.arange(n), n, intolerable), risk, side="right")) - 1


def sample_size(rows: int, spec: SyntheticSpec) -> int:
    """Return how many of this number of rows to review: the share review_share (none if it is 0), but at least the smallest
    sample with which a set without bad rows is accepted."""
    if not rows or not spec.review_share:
        return 0
    smallest_useful = math.ceil(math.log(spec.risk) / math.log1p(-spec.intolerable_rejected))
    return min(rows, max(math.ceil(spec.review_share * rows - 1e-9), smallest_useful))  # 0.1 * 30 is 3.0000000000000004


def review_sample(examples: Sequence[Example], clusters: Mapping[str, str], spec: SyntheticSpec) -> list[Example]:
    """Return the synthetic rows to review, stratified by generator and by cluster, in the order of the examples.

    Each generator gets its share, and at least one row if the sample is large enough. The rows of a generator come by the
    hash of their id, one per cluster until the clusters run out. So added rows change the choice little.
    """
    strata: dict[str, list[Example]] = defaultdict(list)
    for e in examples:
        if e.origin == "synthetic":
            strata[e.generator or UNKNOWN].append(e)
    ranked = []
    for name, rows in strata.items():
        ordered = enumerate(_by_cluster(rows, clusters))
        ranked += [(place > 0, (place + 0.5) / len(rows), name, e.id) for place, e in ordered]
    sampled_ids = {row_id for *_, row_id in sorted(ranked)[: sample_size(len(ranked), spec)]}
    return [e for e in examples if e.origin == "synthetic" and e.id in sampled_ids]


def _by_cluster(rows: Sequence[Example], clusters: Mapping[str, str]) -> list[Example]:
    """Order rows by the hash of their id, but put the second row of a cluster after the first rows of all clusters, and so on."""
    seen_of_cluster: Counter[str] = Counter()
    keyed = []
    for place, e in enumerate(sorted(rows, key=lambda e: (hash_order(e.id, "review"), e.id))):
        cluster = clusters.get(e.id, e.id)
        keyed.append((seen_of_cluster[cluster], place, e))
        seen_of_cluster[cluster] += 1
    return [e for _, _, e in sorted(keyed, key=lambda k: k[:2])]


def review_line(example: Example) -> dict[str, str]:
    """Make a line of the review sample. A reviewer fills in `decision` (keep, drop or relabel), `label` for relabel, and
    `reviewer`. A line without a decision has no effect."""
    source = {"id": example.id, "place": example.place, "generator": example.generator or UNKNOWN}
    texts = {"text": example.user_text, "answer": example.answer}
    return {**source, **texts, **dict.fromkeys(("decision", "label", "reviewer", "comment"), "")}


def synthetic_rows(
    examples: Sequence[Example], clusters: Mapping[str, str], decisions: Mapping[str, str], spec: TaskSpec
) -> SyntheticPart:
    """Make the part of the report on synthetic rows, before review. Blocking: training waits until the sample is decided and
    accepted. `drop` and `relabel` reject a row, `keep` accepts it. A completely reviewed set is always accepted, because its
    bad rows have been dropped or corrected."""
    rules = spec.data.synthetic
    rows = [e for e in examples if e.origin == "synthetic"]
    sample = review_sample(rows, clusters, rules)
    waiting = [e for e in sample if e.id not in decisions]
    rejected = [e for e in sample if decisions.get(e.id) in _REJECTING]
    n, bad = len(sample), len(rejected)
    acceptable = acceptance_number(n, rules.intolerable_rejected, rules.risk)
    count = f"{len(rows):,} synthetic rows"
    findings = []
    verdict: Literal["none", "off", "waiting", "accepted", "rejected"]
    if not rows:
        verdict, message = "none", "no synthetic rows"
    elif not sample:
        verdict, message = "off", f"{count}; none is reviewed, because data.synthetic.review_share is 0"
    elif waiting:
        undecided = f"{len(waiting):,} of the {n:,} to be reviewed have no decision yet: training waits for people"
        verdict, message = "waiting", f"{count}; {undecided}"
        fix = f"`finetune run {spec.name}` draws them; then `finetune review {spec.name} --what synthetic` shows them, and puts "
        fix += "decisions into reviews/"
        findings.append(Finding("quality.synthetic_unreviewed", "error", waiting[0].place, message, fix))
    elif all(e.id in decisions for e in rows):
        verdict, message = "accepted", f"{count}; all were reviewed, {bad:,} of {n:,} sampled ones dropped or corrected"
    else:
        allowed = f"at most {acceptable}" if acceptable >= 0 else "a larger sample"
        verdict = "accepted" if bad <= acceptable else "rejected"
        message = f"{count}; {bad:,} of {n:,} reviewed ones were rejected; the set is accepted with {allowed}"
        if verdict == "rejected":
            fix = "drop or regenerate the rows of the failing generator, or review every synthetic row"
            findings.append(Finding("quality.synthetic_rejected", "error", rejected[0].place, message, fix))
    return SyntheticPart(
        passed=verdict in ("none", "off", "accepted"),
        message=message,
        blocking=True,
        findings=findings,
        applies=verdict not in ("none", "off"),
        verdict=verdict,
        rows=len(rows),
        sample=n,
        allowed=acceptable,
        decided=n - len(waiting),
        rejected=bad,
        waiting=named(waiting),
        rejected_rows=named(rejected),
        generators=_generators(rows, sample, decisions),
    )


def _generators(rows: Sequence[Example], sample: Sequence[Example], decisions: Mapping[str, str]) -> list[Generator]:
    """Return rows, sample and decisions of each generator, the most frequent first."""
    generators = []
    for name, n in most_first(Counter(e.generator or UNKNOWN for e in rows)).items():
        drawn = [decisions.get(e.id) for e in sample if (e.generator or UNKNOWN) == name]
        rejects = sum(decision in _REJECTING for decision in drawn)
        decided = len(drawn) - drawn.count(None)
        generators.append(Generator(generator=name, rows=n, sample=len(drawn), decided=decided, rejected=rejects))
    return generators
