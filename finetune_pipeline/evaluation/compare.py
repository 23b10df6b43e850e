"""Paired comparison of two models on the same examples: rows won and lost, gains, intervals and tests."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.decisions import Comparison
from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.predictions import same_rows
from finetune_pipeline.evaluation.result_parts import Sources
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.statistics.power import smallest_detectable_gain
from finetune_pipeline.evaluation.statistics.proportions import cluster_sign_flip, clustered_share, design_effect
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
    """Count the sources of `n` rows. clusters: the result of :func:`shared_sources` for them."""
    if clusters is None:
        return Sources(rows=n, sources=n, largest=min(n, 1), shared=False)
    return Sources(rows=n, sources=len(set(clusters)), largest=max(Counter(clusters).values()), shared=True)


def _paired_rows(rows_base: Sequence[Row], rows_candidate: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of both models, each in the order of example ids. Raises ValueError if they are not about the same examples."""
    base, candidate = same_rows(rows_base, rows_candidate)
    if not base or not len(base) == len(rows_base) == len(rows_candidate):
        counts = f"{len(rows_base)} base rows, {len(rows_candidate)} candidate rows, {len(base)} of the same examples"
        raise ValueError(f"the two sides do not cover the same examples: {counts}")
    if changed := [a["example_id"] for a, b in zip(base, candidate, strict=True) if a["gold"] != b["gold"]]:
        raise ValueError(f"the gold answer differs between the sides for {len(changed)} examples, {changed[:3]}")
    return base, candidate


def compare(
    rows_base: Sequence[Row],
    rows_candidate: Sequence[Row],
    output: AnyOutput,
    confidence: float = 0.95,
    metric: str | None = None,
    sources: SourceOf = None,
) -> Comparison:
    """Compare two models on the same examples, row by row.

    Args:
        sources: Where examples share one, intervals and p count sources instead of rows.

    Raises:
        ValueError: The sides do not cover exactly the same ids, or gold differs.
    """
    base, candidate = (scored(rows, output) for rows in _paired_rows(rows_base, rows_candidate))
    ids, n = [row["example_id"] for row in base], len(base)
    clusters = shared_sources(base, sources)
    units = clusters or ids
    base_right, candidate_right = ([row.right for row in rows] for rows in (base, candidate))
    outcomes = list(zip(ids, base_right, candidate_right, strict=True))
    fixed = [i for i, before, after in outcomes if after and not before]
    broken = [i for i, before, after in outcomes if before and not after]
    b, c = len(broken), len(fixed)
    differences = [float(after) - float(before) for _, before, after in outcomes]
    effect, mcnemar = design_effect(differences, units), cluster_sign_flip(differences, units)
    lost_interval = least_lost = None
    if any(base_right):
        right_units = [unit for unit, right in zip(units, base_right, strict=True) if right]
        lost = [float(not after) for _, before, after in outcomes if before]
        lost_interval, _ = clustered_share(lost, right_units, confidence)
        (_, least_lost), _ = clustered_share([0.0] * len(lost), right_units, confidence)
    primary = METRICS[metric or default_metric(output)]
    primary_gain = primary.gain(base, candidate, output, confidence, clusters)
    metric_p = None
    if primary.right_or_wrong:
        metric_p = mcnemar
    elif isinstance(primary, RowMetric):
        metric_p = primary.p_value(base, candidate, output, clusters)
    macro_f1_interval = None
    if isinstance(output, LabelsOutput):
        macro_f1_interval = METRICS["macro_f1"].gain(base, candidate, output, confidence, clusters).interval
    return Comparison(
        metric=primary.name,
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
        macro_f1_interval=macro_f1_interval,
        right_before=sum(base_right),
        lost_interval=lost_interval,
        least_lost=least_lost,
        design_effect=effect,
        smallest_detectable_gain=smallest_detectable_gain(int(n / effect), (b + c) / n, alpha=1 - confidence),
        fixed=fixed,
        broken=broken,
    )
