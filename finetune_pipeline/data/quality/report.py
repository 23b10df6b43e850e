"""The data_quality report: its parts in the order people read them, and all findings together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from operator import itemgetter
from pathlib import Path
from typing import Any

from finetune_pipeline.data.dedup.benchmarks import MATCHES, Item, Match, load_benchmarks
from finetune_pipeline.data.examples import SAMPLE, Example, hash_order
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.quality.consistency import consistency
from finetune_pipeline.data.quality.noise import label_noise
from finetune_pipeline.data.quality.parts import part
from finetune_pipeline.data.quality.synthetic import review_sample, synthetic_rows, to_review_lines
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.data import SyntheticSpec
from finetune_pipeline.spec.model import TaskSpec

PARTS = ("size", "balance", "origins", "synthetic", "consistency", "noise", "contamination", "tokens")


_PLACE = "task.yaml: data."
TokenCounts = Callable[[Sequence[Example], int], dict[str, Any]]
"""Makes the report's part on tokens from training rows (or a sample of them) and how many there are."""
_MATCHES_LISTED = 200


@dataclass
class Gathered:
    """What one pass over any number of rows leaves.

    Attributes:
        rows: Number of rows.
        labels: Rows per label (None: rows without one).
        origins: Rows per origin.
        generators: Synthetic rows per generator.
        synthetic: The synthetic rows.
        sample: Up to 20,000 rows by hash of the id.
        train: The training rows among the sample (all of it when no row has a split).
        train_rows: Number of training rows.
    """

    rows: int = 0
    labels: Counter[str | None] = field(default_factory=Counter)
    origins: Counter[str] = field(default_factory=Counter)
    generators: Counter[str] = field(default_factory=Counter)
    synthetic: list[Example] = field(default_factory=list)
    sample: list[Example] = field(default_factory=list)
    train: list[Example] = field(default_factory=list)
    train_rows: int = 0


def gather(examples: Iterable[Example], assignments: Mapping[str, str], limit: int = SAMPLE) -> Gathered:
    """One pass over the rows; only the sample and the synthetic rows are held in memory."""
    gathered = Gathered()

    def ordered() -> Iterator[tuple[int, int, Example]]:
        for e in examples:
            gathered.rows += 1
            gathered.labels[e.label] += 1
            gathered.origins[e.origin] += 1
            gathered.train_rows += not assignments or assignments.get(e.id) == "train"
            if e.origin == "synthetic":
                gathered.generators[e.generator or "unknown"] += 1
                gathered.synthetic.append(e)
            yield hash_order(e.id, "quality"), gathered.rows, e

    lowest = nsmallest(limit, ordered())
    gathered.sample = [e for _, _, e in sorted(lowest, key=itemgetter(1))]
    gathered.train = [e for e in gathered.sample if not assignments or assignments.get(e.id) == "train"]
    return gathered


def data_quality(
    examples: Iterable[Example],
    assignments: Mapping[str, str],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: TaskSpec,
    count_tokens: TokenCounts | None = None,
    benchmarks: Mapping[str, Any] | None = None,
    unreviewed: Iterable[Example] | None = None,
) -> dict[str, Any]:
    """Make the report about a set of examples as a whole. Plain JSON, deterministic.

    One pass over `examples`, which may be a stream: counts are of all rows, and the rest is asked of 20,000 rows chosen by
    hash where there are more (each such part says so: sampled, of).

    Args:
        examples: The rows after review.
        assignments: {id: split}.
        clusters: {id: near-duplicate cluster}.
        decisions: {id: keep, drop or relabel}.
        spec: The task.
        count_tokens: Tokens are not counted without it.
        benchmarks: The part that :func:`benchmark_report` made.
        unreviewed: The rows before review, for the synthetic sample (a dropped row must count as rejected); the examples
            when not given.

    Returns:
        rows, each of PARTS (with passed, message (one sentence), blocking, and findings), passed, blocked_by (names of
        parts), and the findings of all parts.
    """
    all_rows = gather(examples, assignments)
    some, total = all_rows.sample, all_rows.rows
    before, before_total = (all_rows.synthetic, total) if unreviewed is None else _synthetic(unreviewed)
    parts: dict[str, Any] = {
        "size": size_rules(all_rows.labels, spec),
        "balance": class_balance(all_rows.labels, spec),
        "origins": origins(all_rows.origins, all_rows.generators),
        "synthetic": synthetic_rows(before, clusters, decisions, spec, before_total),
        "consistency": consistency(some, spec, total),
        "noise": label_noise(some, clusters, spec, total, decisions),
        "contamination": dict(benchmarks) if benchmarks is not None else contamination([], [], all_rows.train_rows),
        "tokens": count_tokens(all_rows.train, all_rows.train_rows) if count_tokens else _no_tokens(),
    }
    return {
        "rows": total,
        **parts,
        "passed": all(parts[name]["passed"] for name in PARTS),
        "blocked_by": [name for name in PARTS if parts[name]["blocking"] and not parts[name]["passed"]],
        "findings": [finding for name in PARTS for finding in parts[name]["findings"]],
    }


def _no_tokens() -> dict[str, Any]:
    return part(True, "not asked: no tokenizer at hand", applies=False, prices=[])


def _synthetic(rows: Iterable[Example]) -> tuple[list[Example], int]:
    kept, total = [], 0
    for e in rows:
        total += 1
        if e.origin == "synthetic":
            kept.append(e)
    return kept, total


def write_review_sample(
    path: Path,
    examples: Iterable[Example],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: SyntheticSpec,
) -> int:
    """Write the synthetic rows that still wait for a decision as JSON Lines for people to fill in. Returns their number.

    examples: the rows before review.
    """
    lines = to_review_lines(e for e in review_sample(_synthetic(examples)[0], clusters, spec) if e.id not in decisions)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), "utf-8", newline="\n")
    return len(lines)


def benchmark_report(raw: Path | None, clean: Path, rows: int) -> dict[str, Any] | None:
    """The part, from the matches the cleaning step noted; None where the task names no benchmarks."""
    benchmarks = load_benchmarks(raw)
    if benchmarks is None:
        return None
    return contamination([Match(**row) for row in read_rows(clean / MATCHES)], benchmarks.index.items, rows)


def contamination(matches: Sequence[Match], items: Sequence[Item], rows: int) -> dict[str, Any]:
    """The part, of the matches of `rows` training rows.

    Returns:
        benchmarks: {file, items, repeated (items), rows}; matches: up to 200 of {id, place, file, line, how, covered};
        rows; repeated.
    """
    if not items:
        message = "not asked: there is no benchmark file, and no general ability is asked"
        return part(True, message, applies=False, benchmarks=[], matches=[], rows=rows, repeated=0)
    sizes = Counter(item.file for item in items)
    repeated: dict[str, set[int]] = defaultdict(set)
    for match in matches:
        repeated[match.file].add(match.line)
    by_file = Counter(match.file for match in matches)
    findings = []
    for name in sorted(by_file):
        message = (
            f"{by_file[name]:,} training rows repeat {len(repeated[name]):,} of the {sizes[name]:,} items of {name}"
        )
        fix = "remove these rows from training; a score on this benchmark would measure memory"
        place = next(m.place for m in matches if m.file == name)
        findings.append(Finding("quality.contamination", "warning", place, message, fix))
    message = "; ".join(f.message for f in findings)
    return part(
        not matches,
        message or f"none of {rows:,} training rows repeats one of {len(items):,} items",
        findings=findings,
        benchmarks=[
            {"file": name, "items": n, "repeated": len(repeated[name]), "rows": by_file[name]}
            for name, n in sorted(sizes.items())
        ],
        matches=[m.to_dict() for m in matches[:_MATCHES_LISTED]],
        rows=rows,
        repeated=len(matches),
    )


def size_rules(counts: Mapping[str | None, int], spec: TaskSpec) -> dict[str, Any]:
    """Blocking: at least data.min_examples rows, and data.min_per_label of each label; advice above data.many_examples.

    counts: rows per label (None: rows without one).
    """
    data, rows = spec.data, sum(counts.values())
    findings = []
    if rows < data.min_examples:
        findings.append(
            Finding("quality.too_few", "error", _PLACE + "min_examples", f"{rows:,} examples, {data.min_examples:,} asked for",
                    "collect more rows; below this, examples in the prompt mostly do as well as training")
        )  # fmt: skip
    few = {label: counts.get(label, 0) for label in spec.labels if counts.get(label, 0) < data.min_per_label}
    if few:
        counted = ", ".join(f"{label}: {n:,}" for label, n in sorted(few.items(), key=lambda kv: (kv[1], kv[0])))
        findings.append(
            Finding("quality.too_few_of_a_label", "error", _PLACE + "min_per_label",
                    f"under {data.min_per_label:,} examples of a label: {counted}",
                    "collect more of these, or merge labels that are handled alike")
        )  # fmt: skip
    passed = not findings
    message = "; ".join(f.message for f in findings) or f"{rows:,} examples, {data.min_examples:,} asked for"
    if rows > data.many_examples:
        findings.append(
            Finding("quality.many", "note", _PLACE + "many_examples", f"{rows:,} examples, more than {data.many_examples:,}",
                    "train on a part first: quality mostly levels off, and a first answer comes sooner")
        )  # fmt: skip
    return part(
        passed, message, blocking=True, findings=findings, rows=rows, min_examples=data.min_examples,
        min_per_label=data.min_per_label, few=few,
    )  # fmt: skip


def class_balance(counts: Mapping[str | None, int], spec: TaskSpec) -> dict[str, Any]:
    """Rows per label, labels declared but absent, and the largest over the smallest against data.max_imbalance.

    ratio: of the labels that are there; None for free text.
    """
    if not spec.labels:
        return part(True, "not asked: the answers are no labels", applies=False, labels={}, absent=[], ratio=None)
    labels = {label: counts.get(label, 0) for label in spec.labels}
    absent = [label for label, n in labels.items() if not n]
    present = sorted((label for label, n in labels.items() if n), key=lambda label: (labels[label], label))
    findings = []
    if absent:
        findings.append(
            Finding("quality.label_absent", "warning", "task.yaml: output.labels", f"no example of {', '.join(absent)}",
                    "collect rows of these labels, or take them out of output.labels: nothing can be learned of them")
        )  # fmt: skip
    ratio, message = None, "no example has a label"
    if present:
        small, large = present[0], present[-1]
        ratio = labels[large] / labels[small]
        message = (
            f"largest label {large} ({labels[large]:,} rows), smallest {small} ({labels[small]:,}): "
            f"{ratio:.1f} times as many, {spec.data.max_imbalance:g} allowed"
        )
        if ratio > spec.data.max_imbalance:
            findings.append(
                Finding("quality.imbalance", "warning", _PLACE + "max_imbalance", message,
                        f"collect more of {small}; fewer of {large} loses little")
            )  # fmt: skip
    message = "; ".join(f.message for f in findings) or message
    return part(
        not findings,
        message,
        findings=findings,
        labels=labels,
        absent=absent,
        ratio=None if ratio is None else round(ratio, 3),
        max_imbalance=spec.data.max_imbalance,
    )


def origins(counts: Mapping[str, int], generators: Mapping[str, int]) -> dict[str, Any]:
    """Rows per origin and, of synthetic rows, per generator; most first."""
    order = most_first(counts)
    total = max(1, sum(counts.values()))
    shares = ", ".join(f"{name} {n / total:.1%}" for name, n in order.items())
    return part(True, shares or "no rows", origins=order, generators=most_first(generators))
