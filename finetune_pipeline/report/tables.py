"""The tables of the report as plain text cells: HTML and Markdown pages are two ways to write them down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.rivals import MODE_TITLES
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import (
    NOTHING,
    duration,
    is_number,
    metric_title,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)

STEP_TITLES = {
    "raw_examples": "Raw files",
    "validated_examples": "Validated",
    "clean_examples": "Cleaned",
    "reviewed_examples": "Reviewed",
    "splits": "Split",
}
OTHERS = {
    "baseline": "base model at its best",
    "base_restricted": f"base model{MODE_TITLES['restricted']}",
    **{f"{SIMPLE}{name}": model.title for name, model in SIMPLE_MODELS.items()},
    "champion": "champion in service",
}
"""How tables call what the candidate is compared with."""
ANSWERS = {"passed": "yes", "failed": "no", "warned": "warns", "not_asked": "not asked"}


@dataclass(frozen=True)
class Table:
    """Headers and rows of text. `align`: one letter a column, l or r. `strong`: indices of rows to stress."""

    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str
    strong: frozenset[int] = field(default_factory=frozenset)


def gates_table(gates: Sequence[GateResult]) -> Table:
    """Gate, answer, what was measured, what to do."""
    rows = [[g.name, ANSWERS[g.status], f"{g.message} {g.what_to_do}".strip()] for g in gates]
    return Table(["Gate", "Passed", "What was measured, and what to do"], rows, "lll")


def models_table(evaluation: Mapping[str, Any], where: str) -> Table:
    """All models of one set (`validation` or `test`) side by side."""
    models = {name: m for name, m in evaluation["models"].items() if m["set"] == where}
    kind = evaluation["task"]["kind"]
    key, title = {"labels": ("macro_f1", "Macro-F1"), "json": ("micro_f1", "Micro-F1")}.get(
        kind, ("rougeLsum", "ROUGE-L")
    )
    decides = evaluation["metric"]
    if decides not in ("accuracy", "exact"):
        key, title = "value", metric_title(decides)
    headers = [
        "Model",
        "Accuracy" if kind == "labels" else "Exact",
        "Interval",
        title[:1].upper() + title[1:],
        "Valid answers",
        "Rows",
    ]
    rows = [
        [
            m["title"],
            percent(m["accuracy"]),
            percent_range(m["interval"]),
            number(m[key]) if kind == "labels" else points(m[key], sign=False),
            percent(m["valid_share"]),
            number(m["n"]),
        ]
        for m in models.values()
    ]
    strong = frozenset(i for i, name in enumerate(models) if name == "candidate")
    return Table(headers, rows, "lrrrrr", strong)


def comparisons_table(evaluation: Mapping[str, Any]) -> Table:
    """The candidate (by free generation) against every other model on the same sealed rows."""
    rows = []
    for name, title in OTHERS.items():
        c = evaluation["comparisons"].get(name)
        if c:
            rows.append(
                [
                    title,
                    points(c["gain"]),
                    points_range(c["interval"]),
                    number(c["c"]),
                    number(c["b"]),
                    p_value(c["mcnemar_p"]),
                    p_value(c.get("mcnemar_p_holm")),
                    points_range(c.get("macro_f1_interval")),
                ]
            )
    headers = ["Fine-tuned against", "Gain", "Interval", "Won", "Lost", "p", "p, Holm", "Macro-F1 gain"]
    if evaluation["task"]["kind"] != "labels":
        gain = f"Gain, {metric_title(evaluation['metric'])}"
        headers, rows = ["Fine-tuned against", gain, *headers[2:7]], [row[:7] for row in rows]
    return Table(headers, rows, "l" + "r" * (len(headers) - 1))


def per_class_table(evaluation: Mapping[str, Any]) -> Table:
    """Precision, recall and F1 of the candidate per label, beside the base model's F1."""
    rows = []
    before = evaluation["scores"]["base"]["per_class"]
    for label, c in evaluation["scores"]["candidate"]["per_class"].items():
        change = points(c["f1"] - before[label]["f1"]) if c["support"] else NOTHING
        rows.append(
            [
                label,
                number(c["precision"]),
                number(c["recall"]),
                number(c["f1"]),
                number(before[label]["f1"]),
                change,
                number(c["support"]),
            ]
        )
    return Table(["Label", "Precision", "Recall", "F1", "F1, base", "Change, points", "Rows"], rows, "lrrrrrr")


def stages_table(data: Mapping[str, Any]) -> Table:
    """Rows in and out of every data step."""
    rows = []
    for step, facts in data.items():
        if not isinstance(facts, Mapping):
            continue
        counts = facts.get("counts") if isinstance(facts.get("counts"), Mapping) else None
        split = sum(_total(v) for v in counts.values()) if counts else None
        rows.append(
            [
                STEP_TITLES.get(step, step),
                _count(facts.get("rows_in", facts.get("lines"))),
                _count(facts.get("quarantined")),
                _count(facts.get("exact_duplicates")),
                _count(facts.get("near_duplicates")),
                _count(facts.get("dropped")),
                _count(facts.get("kept", split)),
            ]
        )
    headers = ["Step", "Rows in", "Quarantined", "Exact duplicates", "Near duplicates", "Dropped in review", "Rows out"]
    return Table(headers, rows, "lrrrrrr")


def _count(value: Any) -> str:
    return number(value) if is_number(value) else ""


def _total(value: Any) -> int:
    """Rows of a split, given as a number or per label."""
    if isinstance(value, Mapping):
        return sum(_total(v) for v in value.values())
    return int(value) if is_number(value) else 0


def findings_table(data: Mapping[str, Any]) -> Table:
    """What the data steps found, by rule: problems of rows, and personal data taken out."""
    rows = []
    for step, facts in data.items():
        if isinstance(facts, Mapping):
            title = STEP_TITLES.get(step, step)
            rows += [[title, rule, number(n)] for rule, n in _counts(facts.get("by_rule"))]
            rows += [[title, f"scrubbed: {kind}", number(n)] for kind, n in _counts(facts.get("scrubbed")) if n]
    return Table(["Step", "Finding", "Count"], rows, "llr")


def splits_table(data: Mapping[str, Any], order: Sequence[str]) -> Table | None:
    """Rows per split, and per label where that was counted, labels in `order` and others after them."""
    facts = data.get("splits") or {}
    counts = facts.get("counts") or {}
    if not isinstance(counts, Mapping) or not counts:
        return None
    labels = facts.get("labels") or {}
    per_split: dict[str, Mapping[str, Any]] = {
        s: next((of for of in (labels.get(s), n) if isinstance(of, Mapping)), {}) for s, n in counts.items()
    }
    counted = {label for of in per_split.values() for label in of}
    names = [label for label in order if label in counted] + sorted(counted - set(order))
    rows = [
        [s, number(_total(n)), *[number(_total(per_split[s].get(label))) for label in names]] for s, n in counts.items()
    ]
    return Table(["Split", "Rows", *names], rows, "lr" + "r" * len(names))


def _counts(value: Any) -> list[tuple[str, float]]:
    return [(str(k), v) for k, v in value.items() if is_number(v)] if isinstance(value, Mapping) else []


def training_table(training: Mapping[str, Any]) -> Table:
    """How the adapter was made, and what it cost."""
    measured, weights = training.get("measured") or {}, training.get("weights") or {}
    prefix = training.get("shared_prefix") or {}
    trainable, total = training.get("trainable_parameters"), training.get("total_parameters")
    share = f" ({percent(trainable / total)} of all)" if is_number(trainable) and is_number(total) and total else ""
    memory = measured.get("peak_memory_mib")
    shared = (
        NOTHING
        if "used" not in prefix
        else (
            f"yes, {number(prefix.get('prefix_tokens'))} tokens" if prefix["used"] else f"no: {prefix.get('why', '')}"
        )
    )
    rows = [
        ["Method", number(training.get("method"))],
        *_what_was_trained(training),
        ["Compute precision", number(training.get("precision"))],
        ["Optimiser steps", number(training.get("steps"))],
        ["Kept checkpoint", f"step {number(training.get('best_step'))}"],
        ["Stopped early", number(training.get("stopped_early"))],
        ["Trainable parameters", number(trainable) + share],
        ["Base weights in memory, of their 16-bit size", percent(weights.get("ratio"))],
        ["Shared prefix computed once", shared],
        ["Peak memory", f"{memory:,.0f} MiB" if is_number(memory) else NOTHING],
        ["Time", duration(measured.get("seconds"))],
        ["Taken up again from", number(measured["resumed_from"]) if measured.get("resumed_from") else "no, one go"],
    ]
    return Table(["Training", ""], rows, "ll")


def _what_was_trained(training: Mapping[str, Any]) -> list[list[str]]:
    """Rows about soft prompts (their length and beginning) and full fine-tunes (what storing them costs)."""
    begun, rounding = training.get("begun") or {}, training.get("rounding") or {}
    rows = []
    if begun:
        first = {"random": "random numbers", "vocabulary": "tokens of the vocabulary"}.get(str(begun["init"]), "a text")
        rows.append(["Virtual tokens", f"{number(begun['virtual_tokens'])}, begun from {first}"])
    if rounding:
        rows.append([f"Validation loss as stored, in {rounding['dtype']}", number(rounding["eval_loss"])])
    return rows


def openings_table(evaluation: Mapping[str, Any]) -> Table | None:
    """The ledger of the sealed test."""
    entries = evaluation["seal"]["openings"]
    names = sorted({key for entry in entries for key in entry}, key=lambda k: (k != "time", k))
    if not names:
        return None
    rows = [[number(entry.get(name)) for name in names] for entry in entries]
    return Table([name.capitalize() for name in names], rows, "l" * len(names))


def versions_table(evaluation: Mapping[str, Any]) -> Table:
    """Names and versions or hashes of everything this report rests on."""
    task = evaluation["task"]
    rows = [["base model", task["base_model"] + (f" at {task['base_revision']}" if task["base_revision"] else "")]]
    return Table(["What", "Version"], rows + _flat(evaluation["versions"]), "ll")


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    rows = []
    for key, item in value.items():
        if isinstance(item, Mapping):
            rows += _flat(item, f"{prefix}{key}.")
        else:
            rows.append([f"{prefix}{key}", number(item)])
    return rows
