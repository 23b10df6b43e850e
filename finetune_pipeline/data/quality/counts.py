"""How many rows there are, of which labels and origins, and how long they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.sample import part
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.model import TaskSpec

_PLACE = "task.yaml: data."


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


_BINS = 10
_BAR = 24


def summarise(examples: Sequence[Example]) -> dict[str, Any]:
    """Counts per label and origin; min, p50, p90, max of characters and words of the user text; a histogram of words.

    The histogram has up to 10 bins of equal width: {from, to, count}, both ends included.
    """
    texts = [e.user_text for e in examples]
    words = [len(t.split()) for t in texts]
    return {
        "rows": len(examples),
        "labels": dict(Counter(e.label for e in examples if e.label is not None).most_common()),
        "origins": dict(Counter(e.origin for e in examples).most_common()),
        "characters": _spread([len(t) for t in texts]),
        "words": _spread(words),
        "histogram": _histogram(words),
    }


def _spread(values: Sequence[int]) -> dict[str, int]:
    if not values:
        return {}
    p50, p90 = np.percentile(values, [50, 90], method="higher")
    return {"min": min(values), "p50": int(p50), "p90": int(p90), "max": max(values)}


def _histogram(words: Sequence[int]) -> list[dict[str, int]]:
    if not words:
        return []
    low = min(words)
    width = max(1, -(-(max(words) - low + 1) // _BINS))
    counts = Counter((w - low) // width for w in words)
    return [
        {"from": low + i * width, "to": low + (i + 1) * width - 1, "count": counts[i]} for i in range(max(counts) + 1)
    ]


def markdown(summary: dict[str, Any]) -> str:
    """The summary as Markdown. Labels stand in code spans that they cannot break out of."""
    lines = [f"**{summary['rows']} rows**", ""]
    for title, key in (("Label", "labels"), ("Origin", "origins")):
        if summary[key]:
            lines += [f"| {title} | rows | share |", "|---|---:|---:|"]
            lines += [f"| {_plain(name)} | {n} | {n / summary['rows']:.1%} |" for name, n in summary[key].items()]
            lines.append("")
    if summary["words"]:
        lines += ["| user text | min | p50 | p90 | max |", "|---|---:|---:|---:|---:|"]
        for key in ("characters", "words"):
            lines.append(f"| {key} | {' | '.join(str(summary[key][k]) for k in ('min', 'p50', 'p90', 'max'))} |")
        lines += ["", "Words per row:", "", "```text", *_bars(summary["histogram"]), "```"]
    return "\n".join(lines).rstrip() + "\n"


def _bars(histogram: Sequence[dict[str, int]]) -> list[str]:
    names = [f"{b['from']}-{b['to']}" if b["from"] != b["to"] else str(b["from"]) for b in histogram]
    most = max(b["count"] for b in histogram)
    wide = max(len(n) for n in names)
    return [
        f"{name:>{wide}} {'█' * round(_BAR * b['count'] / most) or ('▏' if b['count'] else '')} {b['count']}".rstrip()
        for name, b in zip(names, histogram, strict=True)
    ]


def _plain(name: str) -> str:
    """A label in a table cell, as code that it cannot break out of."""
    return f"`{' '.join(name.split()).replace('|', '/').replace('`', chr(39))}`"
