"""Counts and lengths of a set of examples as Markdown, for the metadata of an asset.

No text of a row is part of it: Dagster stores summaries, and nobody's rows could be removed from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from finetune_pipeline.data.examples import Example

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
