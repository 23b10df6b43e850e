from __future__ import annotations

from finetune_pipeline.data.quality.counts import markdown, summarise
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


def test_markdown_shows_bars_and_no_text_of_a_row() -> None:
    rows = [example("one two"), example("```\n<script>alert(1)</script>\n| a |"), example("x " * 30)]
    shown = markdown(summarise([*rows, example("two words", "a`b|c", label="a`b|c")]))
    assert "**4 rows**" in shown and "| `bug_report` | 3 | 75.0% |" in shown
    assert "| `a'b/c` | 1 | 25.0% |" in shown
    assert "| words | 2 |" in shown and "█" in shown
    assert "alert" not in shown and "one two" not in shown


def test_no_rows() -> None:
    told = summarise([])
    assert told["rows"] == 0 and told["words"] == {}
    assert markdown(told) == "**0 rows**\n"
