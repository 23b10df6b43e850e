"""Paired comparison of two models on the same examples: rows won and lost, gains, intervals and tests."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_pipeline.evaluation.correctness import Row, is_right
from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.result import Comparison
from finetune_pipeline.evaluation.result_parts import Sources
from finetune_pipeline.evaluation.statistics.power import smallest_detectable_gain
from finetune_pipeline.evaluation.statistics.proportions import (
    Interval,
    cluster_sign_flip,
    clustered_share,
    design_effect,
)
from finetune_pipeline.spec.outputs import AnyOutput, LabelsOutput, default_metric

SourceOf = Mapping[str, str] | None
"""The source of each example (Example.made_from), by id; None: every row is its own source."""


def shared_sources(rows: Sequence[Row], sources: SourceOf) -> list[str] | None:
    """The source of every row, or None if no two rows share one. Raises ValueError when a row has none."""
    if sources is None:
        return None
    if missing := sorted(row["example_id"] for row in rows if row["example_id"] not in sources):
        raise ValueError(f"no source is known for {len(missing)} test examples, {missing[:3]}")
    row_sources = [sources[row["example_id"]] for row in rows]
    return row_sources if len(set(row_sources)) < len(row_sources) else None


def count_sources(clusters: Sequence[str] | None, n: int) -> Sources:
    """Count the sources of `n` rows. `clusters`: of :func:`shared_sources`."""
    if clusters is None:
        return Sources(rows=n, sources=n, largest=min(n, 1), shared=False)
    return Sources(rows=n, sources=len(set(clusters)), largest=max(Counter(clusters).values()), shared=True)


def _pairs(rows_base: Sequence[Row], rows_candidate: Sequence[Row]) -> list[tuple[str, Row, Row]]:
    base, candidate = ({row["example_id"]: row for row in rows} for rows in (rows_base, rows_candidate))
    if not base or not candidate:
        raise ValueError(f"nothing to compare: {len(base)} base rows, {len(candidate)} candidate rows")
    if base.keys() != candidate.keys():
        only_base, only_candidate = sorted(base.keys() - candidate.keys()), sorted(candidate.keys() - base.keys())
        raise ValueError(
            "the two sides do not cover the same examples: "
            f"{len(only_base)} only in base {only_base[:3]}, "
            f"{len(only_candidate)} only in candidate {only_candidate[:3]}"
        )
    changed = sorted(i for i in base if base[i]["gold"] != candidate[i]["gold"])
    if changed:
        raise ValueError(f"the gold answer differs between the sides for {len(changed)} examples, {changed[:3]}")
    return [(i, base[i], candidate[i]) for i in sorted(base)]


def compare(
    rows_base: Sequence[Row],
    rows_candidate: Sequence[Row],
    output: AnyOutput,
    confidence: float = 0.95,
    metric: str | None = None,
    sources: SourceOf = None,
) -> Comparison:
    """Compare two models on the same examples, row by row. Where `sources` (what each example was made from, by id) are shared,
    intervals and p count sources.

    Raises:
        ValueError: The sides do not cover exactly the same ids, or gold differs.
    """
    pairs = _pairs(rows_base, rows_candidate)
    n = len(pairs)
    base, candidate = [before for _, before, _ in pairs], [after for _, _, after in pairs]
    before, after = ([is_right(row, output) for row in side] for side in (base, candidate))
    clusters = shared_sources(base, sources)
    differences = [float(y) - float(x) for x, y in zip(before, after, strict=True)]
    fixed = [i for (i, _, _), x, y in zip(pairs, before, after, strict=True) if y and not x]
    broken = [i for (i, _, _), x, y in zip(pairs, before, after, strict=True) if x and not y]
    b, c = len(broken), len(fixed)
    name = metric or default_metric(output)
    primary = METRICS[name]
    primary_gain = primary.gain(base, candidate, output, confidence, clusters)
    units = clusters or [i for i, _, _ in pairs]
    effect, mcnemar = design_effect(differences, units), cluster_sign_flip(differences, units)
    right_indices = [i for i, correct in enumerate(before) if correct]

    def share_lost(wrong: Sequence[float]) -> Interval | None:
        return clustered_share(wrong, [units[i] for i in right_indices], confidence)[0] if right_indices else None

    lost, none_lost = share_lost([float(not after[i]) for i in right_indices]), share_lost([0.0] * len(right_indices))
    metric_p = None
    if primary.right_or_wrong:
        metric_p = mcnemar
    elif isinstance(primary, RowMetric):
        metric_p = primary.p_value(base, candidate, output, clusters)
    f1 = None
    if isinstance(output, LabelsOutput):
        f1 = METRICS["macro_f1"].gain(base, candidate, output, confidence, clusters).interval
    return Comparison(
        metric=name,
        n=n,
        confidence=confidence,
        base=primary.value(base, output),
        candidate=primary.value(candidate, output),
        b=b,
        c=c,
        discordant_share=(b + c) / n,
        gain=primary_gain.gain,
        interval=primary_gain.interval,
        mcnemar_p=mcnemar,
        metric_p=metric_p,
        macro_f1_interval=f1,
        right_before=sum(before),
        lost_interval=lost,
        least_lost=none_lost and none_lost[1],
        design_effect=effect,
        smallest_detectable_gain=smallest_detectable_gain(int(n / effect), (b + c) / n, alpha=1 - confidence),
        fixed=fixed,
        broken=broken,
    )
