from __future__ import annotations

import json

from finetune_pipeline.data.summary import markdown, summarise
from finetune_pipeline_tests.unit.data.rows import example


def test_counts_and_lengths() -> None:
    rows = [example("w " * n + "x", "P0_incident" if n > 90 else "bug_report", n) for n in range(100)]
    told = summarise([*rows, example("y", "feature_request", origin="production")])
    assert told["rows"] == 101
    assert told["labels"] == {"bug_report": 91, "P0_incident": 9, "feature_request": 1}
    assert told["origins"] == {"human": 100, "production": 1}
    assert told["words"] == {"min": 1, "p50": 50, "p90": 90, "max": 100}
    assert told["characters"] == {"min": 1, "p50": 99, "p90": 179, "max": 199}
    assert [(b["from"], b["to"], b["count"]) for b in told["histogram"]] == [
        (1, 10, 11),
        *((i, i + 9, 10) for i in range(11, 100, 10)),
    ]
    json.dumps(told, allow_nan=False)


def test_histogram_counts_every_row_once() -> None:
    for lengths in ([5], [1, 1000], [3, 3, 3], list(range(2, 40))):
        bins = summarise([example("a " * n, line=i) for i, n in enumerate(lengths)])["histogram"]
        assert sum(b["count"] for b in bins) == len(lengths) and len(bins) <= 10
        assert bins[0]["from"] == min(lengths) and bins[-1]["to"] >= max(lengths)


def test_markdown_shows_bars_and_no_text() -> None:
    shown = markdown(summarise([example("one two"), example("a secret of ann"), example("x " * 30)]))
    assert "**3 rows**" in shown
    assert "| words | 2 |" in shown and "█" in shown
    assert "secret" not in shown


def test_no_rows() -> None:
    told = summarise([])
    assert told["rows"] == 0 and told["words"] == {}
    assert markdown(told) == "**0 rows**\n"
