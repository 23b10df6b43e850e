"""The training plan as a page: what it takes, whether it fits, and the methods side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.planning.plan import duration
from finetune_pipeline.report.blocks import Code, Page, Plot, Section, Table, figure, text
from finetune_pipeline.report.plots import stacked_bar

PARTS = {
    "weights": "#4c78a8",
    "trained": "#72b7b2",
    "gradients": "#f58518",
    "optimiser": "#e45756",
    "activations": "#54a24b",
    "logits": "#eeca3b",
    "overhead": "#b0b0b0",
    "resident": "#dddddd",
}
"""Parts of the memory at the peak, and their colours."""


def plan_page(facts: Mapping[str, Any]) -> Page:
    """Build the page of a plan. `facts`: of planning.plan.training_plan."""
    memory, nearest = facts["memory_mib"], facts["nearest"]
    parts = [[name, f"{memory[name]:,}"] for name in PARTS if memory[name]]
    table = Table(
        [("Part of the peak", text), ("MiB", figure)], [*parts, ["total", f"{memory['total']:,}"]], [len(parts)]
    )
    fitting = Code(nearest["yaml"], "yaml") if nearest and nearest["fits"] else None
    return Page(
        "Training plan",
        facts["sentence"],
        None,
        [
            Section.of("memory", "Memory", [memory_plot(facts), table, fitting]),
            Section.of("methods", "Methods side by side", [methods_table(facts)]),
        ],
    )


def memory_plot(facts: Mapping[str, Any]) -> Plot:
    """One bar of the peak's parts, and a line at what is free."""
    memory, free = facts["memory_mib"], facts["available_mib"]
    parts = {f"{name} {memory[name]:,} MiB": (memory[name], color) for name, color in PARTS.items() if memory[name]}
    return stacked_bar(
        "memory", "Parts of the memory at the peak, and what is free", parts, (free, f"free: {free:,} MiB")
    )


def methods_table(facts: Mapping[str, Any]) -> Table:
    """Method, trainable parameters, memory, time, what is stored, and what was measured on the shipped task."""
    timed = all(row.get("seconds") for row in facts["methods"])
    rows = [
        [
            row["method"],
            f"{row['trainable_parameters']:,}",
            f"{row['memory_mib']:,} MiB",
            "yes" if row["fits"] else "no",
            *([time_range(row["seconds"])] if timed else []),
            file_size(row["result_bytes"]),
            measured_accuracy(row["measured"]),
        ]
        for row in facts["methods"]
    ]
    columns = [("Method", text), ("Trainable parameters", figure), ("Memory", figure), ("Fits", text)]
    columns += [("Time", figure)] if timed else []
    columns += [("Result", figure), ("Accuracy measured on the shipped task", text)]
    return Table(columns, rows, [i for i, row in enumerate(facts["methods"]) if row["chosen"]])


def time_range(seconds: Mapping[str, Any] | None) -> str:
    """An interval of time for people."""
    if not seconds:
        return "not measured here"
    return f"{duration(seconds['low'])} to {duration(seconds['high'])}"


def file_size(size: int) -> str:
    """A file's size for people."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def measured_accuracy(measured: Mapping[str, Any] | None) -> str:
    """What was measured on the shipped task, which says little about another one."""
    if not measured or measured.get("accuracy") is None:
        return "not measured"
    low, high = measured["interval"]
    return f"{measured['accuracy']:.2f} ({low:.2f} to {high:.2f}), {measured['date']}"
