"""Enough rows, enough of each label, and none too many."""

from __future__ import annotations

from finetune_pipeline.data.quality.counts import class_balance, markdown, size_rules, summarise
from finetune_pipeline.data.quality.sample import part, sampled
from finetune_pipeline_tests.unit.data.quality.makers import LABELS, make_spec
from finetune_pipeline_tests.unit.data.rows import example

EVEN = dict.fromkeys(LABELS, 150)


def test_a_part_says_how_many_rows_it_looked_at() -> None:
    said = part(True, "few labels are wrong", **sampled(4437, 7331))["message"]
    assert said == "few labels are wrong (looked at 4,437 of 7,331 rows, chosen by hash)"
    assert part(True, "few labels are wrong", **sampled(7331, 7331))["message"] == "few labels are wrong"


def test_enough_passes() -> None:
    report = size_rules(EVEN, make_spec(LABELS))
    assert report["passed"] and report["blocking"] and report["rows"] == 600 and not report["findings"]


def test_too_few_rows_and_too_few_of_a_label_stop() -> None:
    report = size_rules({**EVEN, "parcel": 20, "invoice": 0}, make_spec(LABELS))
    assert not report["passed"] and report["blocking"]
    assert [f["rule"] for f in report["findings"]] == ["quality.too_few", "quality.too_few_of_a_label"]
    assert "320 examples, 500 asked for" in report["message"] and "invoice: 0, parcel: 20" in report["message"]
    assert report["few"] == {"parcel": 20, "invoice": 0}


def test_balance_and_imbalance() -> None:
    assert class_balance(EVEN, make_spec(LABELS))["passed"]
    report = class_balance({**EVEN, "parcel": 2000}, make_spec(LABELS))
    assert not report["passed"] and report["ratio"] == round(2000 / 150, 3)
    assert class_balance({**EVEN, "parcel": 2000}, make_spec(LABELS, max_imbalance=20))["passed"]


def test_a_label_without_a_row_is_named() -> None:
    report = class_balance({**EVEN, "parcel": 0}, make_spec(LABELS))
    assert report["absent"] == ["parcel"] and not report["passed"] and "parcel" in report["message"]


def test_counts_and_lengths() -> None:
    rows = [example("w " * n + "x", "P0_incident" if n > 90 else "bug_report", n) for n in range(100)]
    report = summarise([*rows, example("y", "feature_request", origin="production")])
    assert report["rows"] == 101
    assert report["labels"] == {"bug_report": 91, "P0_incident": 9, "feature_request": 1}
    assert report["origins"] == {"human": 100, "production": 1}
    assert report["words"] == {"min": 1, "p50": 50, "p90": 90, "max": 100}
    assert report["characters"] == {"min": 1, "p50": 99, "p90": 179, "max": 199}
    assert [(b["from"], b["to"], b["count"]) for b in report["histogram"]] == [
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
