"""The training plan as Markdown: what it takes, the verdict, and the methods side by side."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from typing import Any

from finetune_pipeline.planning.plan import duration

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
_WIDTH = 640


def plan_markdown(facts: Mapping[str, Any]) -> str:
    """The whole plan, with its picture."""
    lines = [facts["sentence"], "", f"![memory](data:image/svg+xml;base64,{_encoded(memory_plot(facts))})", ""]
    lines += ["| part of the peak | MiB |", "|---|---:|"]
    lines += [f"| {name} | {facts['memory_mib'][name]:,} |" for name in PARTS if facts["memory_mib"][name]]
    lines += [f"| **total** | **{facts['memory_mib']['total']:,}** |", ""]
    if facts["nearest"] and facts["nearest"]["fits"]:
        lines += ["```yaml", facts["nearest"]["yaml"], "```", ""]
    return "\n".join([*lines, methods_markdown(facts)])


def methods_markdown(facts: Mapping[str, Any]) -> str:
    """Method × trainable parameters × memory × time × what is stored × what was measured on the shipped task."""
    lines = [
        "| method | trainable parameters | memory | fits | time | result | accuracy measured on the shipped task |",
        "|---|---:|---:|---|---:|---:|---|",
    ]
    for row in facts["methods"]:
        name = f"**{row['method']}**" if row["chosen"] else row["method"]
        lines.append(
            f"| {name} | {row['trainable_parameters']:,} | {row['memory_mib']:,} MiB | {'yes' if row['fits'] else 'no'} | "
            f"{time_said(row['seconds'])} | {size_said(row['result_bytes'])} | {quality_said(row['measured'])} |"
        )
    return "\n".join(lines)


def time_said(seconds: Mapping[str, Any]) -> str:
    """An interval of time for people."""
    return f"{duration(seconds['low'])} to {duration(seconds['high'])}"


def size_said(size: int) -> str:
    """A file's size for people."""
    return f"{size / 2**20:,.0f} MiB" if size >= 2**20 else f"{size / 2**10:,.0f} KiB"


def quality_said(measured: Mapping[str, Any] | None) -> str:
    """What was measured on the shipped task, which says little about another one."""
    if not measured or measured.get("accuracy") is None:
        return "not measured"
    low, high = measured["interval"]
    return f"{measured['accuracy']:.2f} ({low:.2f} to {high:.2f}), {measured['date']}"


def memory_plot(facts: Mapping[str, Any]) -> str:
    """One bar of the peak's parts, and a line at what is free."""
    parts = [(name, facts["memory_mib"][name]) for name in PARTS if facts["memory_mib"][name]]
    free = facts["available_mib"]
    scale = _WIDTH / max(sum(size for _, size in parts), free, 1)
    x, drawn = 0.0, []
    for name, size in parts:
        drawn.append(
            f'<rect x="{x:.1f}" y="20" width="{size * scale:.1f}" height="30" fill="{PARTS[name]}">'
            f"<title>{escape(name)} {size} MiB</title></rect>"
        )
        x += size * scale
    legend = "".join(
        f'<rect x="{10 + 155 * (i % 4)}" y="{66 + 20 * (i // 4)}" width="10" height="10" fill="{PARTS[name]}"/>'
        f'<text x="{25 + 155 * (i % 4)}" y="{75 + 20 * (i // 4)}" font-size="12">{escape(name)} {size:,} MiB</text>'
        for i, (name, size) in enumerate(parts)
    )
    line = f'<line x1="{free * scale:.1f}" x2="{free * scale:.1f}" y1="12" y2="56" stroke="black" stroke-width="2"/>'
    told = f'<text x="{min(free * scale, _WIDTH - 110):.1f}" y="10" font-size="12">free: {free:,} MiB</text>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH + 4} 110" width="{_WIDTH + 4}" height="110" '
        f'font-family="sans-serif">{"".join(drawn)}{line}{told}{legend}</svg>'
    )


def _encoded(svg: str) -> str:
    return base64.b64encode(svg.encode()).decode()
