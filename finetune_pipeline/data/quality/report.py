"""The data quality report: its parts in reading order, and all findings."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from operator import itemgetter
from typing import Any

from finetune_pipeline.data.examples import SAMPLE, Example, hash_order
from finetune_pipeline.data.quality.answer_style import answer_style
from finetune_pipeline.data.quality.label_in_input import label_in_input
from finetune_pipeline.data.quality.noise import label_noise
from finetune_pipeline.data.quality.parts import part
from finetune_pipeline.data.quality.synthetic import synthetic_rows
from finetune_pipeline.data.split.placement import shares_of
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.model import TaskSpec

PARTS = ("balance", "synthetic", "noise", "inputs", "answers", "tokens")
TokenCounts = Callable[[Sequence[Example], int, Sequence[Example]], dict[str, Any]]
"""Makes the part on tokens from training rows (or a sample), their total number, and rows of the other splits."""


def data_quality(
    examples: Iterable[Example],
    assignments: Mapping[str, str],
    clusters: Mapping[str, str],
    decisions: Mapping[str, str],
    spec: TaskSpec,
    count_tokens: TokenCounts | None = None,
    synthetic: Sequence[Example] | None = None,
) -> dict[str, Any]:
    """Make the report about a set of examples: plain JSON, deterministic. Reads `examples` (after review) once; they may be a
    stream. All rows are counted; other analyses use at most 20,000 rows, sampled by hash.

    Args:
        assignments: {id: split}.
        clusters: {id: near-duplicate cluster}.
        decisions: {id: keep, drop or relabel}.
        count_tokens: None: tokens are not counted.
        synthetic: The synthetic rows before review (a dropped row must count as rejected); else those of the sample.
    """
    labels: Counter[tuple[str | None, str]] = Counter()
    origins: Counter[str] = Counter()
    train_rows = 0

    def is_train(e: Example) -> bool:
        return not assignments or assignments.get(e.id) == "train"

    def ordered() -> Iterator[tuple[int, int, Example]]:
        nonlocal train_rows
        for number, e in enumerate(examples):
            labels[e.label, assignments.get(e.id, "")] += 1
            origins[e.origin] += 1
            train_rows += is_train(e)
            yield hash_order(e.id, "quality"), number, e

    lowest = nsmallest(SAMPLE, ordered())
    sample, rows = [e for _, _, e in sorted(lowest, key=itemgetter(1))], labels.total()
    if not assignments:  # as many as the splits will have
        train_rows = round(train_rows * shares_of(spec)["train"])
    tokens = part(True, "not asked: no tokenizer is available yet", applies=False, prices=[])
    if count_tokens:
        others = [e for e in sample if not is_train(e) and e.id in assignments]
        tokens = count_tokens([e for e in sample if is_train(e)], train_rows, others)
    parts: dict[str, Any] = {
        "balance": class_balance(labels, spec),
        "synthetic": synthetic_rows(sample if synthetic is None else synthetic, clusters, decisions, spec),
        "noise": label_noise(sample, clusters, spec, rows, decisions),
        "inputs": label_in_input(sample, spec),
        "answers": answer_style(sample, spec),
        "tokens": tokens,
    }
    return {
        "rows": rows,
        "origins": most_first(origins),
        **parts,
        "passed": all(parts[name]["passed"] for name in PARTS),
        "blocked_by": [name for name in PARTS if parts[name]["blocking"] and not parts[name]["passed"]],
        "findings": [finding for name in PARTS for finding in parts[name]["findings"]],
    }


def class_balance(counts: Mapping[tuple[str | None, str], int], spec: TaskSpec) -> dict[str, Any]:
    """Name labels without a row, in all or in validation or test, and compare the largest to the smallest label
    (data.max_imbalance). counts: rows by label and split."""
    if not spec.labels:
        return part(True, "not asked: the answers are not labels", applies=False, labels={})
    labels = {label: sum(n for (name, _), n in counts.items() if name == label) for label in spec.labels}
    absent = [label for label, n in labels.items() if not n]
    present = sorted((n, label) for label, n in labels.items() if n or len(absent) == len(labels))
    (fewest, small), (most, large) = present[0], present[-1]
    allowed = f"at most {spec.data.max_imbalance:g} times as many are allowed"
    message = f"largest label {large} ({most:,} rows), smallest {small} ({fewest:,}): {allowed}"
    findings, place = [], "task.yaml: output.labels"
    if absent:
        none = f"no example of {', '.join(absent)}"
        fix = "collect rows of these labels, or take them out of output.labels: the model cannot learn them"
        findings.append(Finding("quality.label_absent", "warning", place, none, fix))
    evaluated = {"validation", "test"} & {split for _, split in counts}
    unseen = [label for label, n in labels.items() if n and not all(counts.get((label, split)) for split in evaluated)]
    if unseen:
        none = f"validation or test has no row of {', '.join(unseen)}: no score there says whether a model knows them"
        fix = "collect more rows of these labels, or take them out of output.labels"
        findings.append(Finding("quality.label_not_evaluated", "warning", place, none, fix))
    if most > spec.data.max_imbalance * fewest:
        fix = f"collect more of {small}; fewer of {large} loses little"
        findings.append(Finding("quality.imbalance", "warning", "task.yaml: data.max_imbalance", message, fix))
    return part(not findings, "; ".join(f.message for f in findings) or message, findings=findings, labels=labels)
