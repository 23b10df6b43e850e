"""Are there enough rows, of every label, and where do they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.data.quality.sample import part
from finetune_pipeline.findings import Finding
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
    order = _most_first(counts)
    total = max(1, sum(counts.values()))
    shares = ", ".join(f"{name} {n / total:.1%}" for name, n in order.items())
    return part(True, shares or "no rows", origins=order, generators=_most_first(generators))


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))
