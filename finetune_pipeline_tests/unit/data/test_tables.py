import csv
import datetime as dt
import itertools
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_pipeline.data.raw_files import container_of
from finetune_pipeline_tests.unit.data.raw_rows import records_of, table, validate_bytes, validate_file, workbook
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, chat, make_spec

SPEC = make_spec()
ROWS = [
    ("The export, again, does nothing", "bug_report"),
    ("It broke; see below", "P0_incident"),
    ('He said "no"', "feature_request"),
    ("two\nlines", "bug_report"),
    ("It's down | now", "bug_report"),
]


def values(folder: Path, data: bytes, spec: Any = SPEC, name: str = "a.csv") -> list[dict[str, str]]:
    return [r.value for r in records_of(folder, data, spec, name)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_dialect_follows_from_the_file(tmp_path: Path, delimiter: str) -> None:
    for quoting, end, header in itertools.product((csv.QUOTE_MINIMAL, csv.QUOTE_ALL), ("\n", "\r\n"), (True, False)):
        rows = [("text", "label")] * header + ROWS * 3
        data = table(rows, delimiter, end, quoting=quoting).encode()
        names = ("text", "label") if header else ("c1", "c2")
        spec = SPEC if header else make_spec(fields={"text": "c1", "label": "c2"})
        for name in ("a.csv", "a"):
            assert values(tmp_path, data, spec, name) == [dict(zip(names, row, strict=True)) for row in ROWS * 3]
        result = validate_bytes(tmp_path, data, spec, "a.csv")
        assert (result.kept, result.findings) == (15, [])
        container, reason = container_of(tmp_path / "a.csv", "a.csv", spec)
        assert container == "csv" and "in all of the first" in reason
        assert f"delimiter {delimiter!r}" in reason


def test_an_unclosed_quote_swallows_nothing(tmp_path: Path) -> None:
    """Python's own reader loses the rows up to the next quote, or to the end of the file."""
    plain = [f"Ticket {i} is slow,bug_report" for i in range(40)]
    wrapped = [f'"Ticket {i}, is slow",bug_report' for i in range(40)]
    for bad in ('"starts and never ends,bug_report', '"torn" apart,bug_report', '"', '"a","b'):
        lines = ["text,label", *wrapped[:10], bad, *plain[:20], *wrapped[10:]]
        result = validate_bytes(tmp_path, ("\n".join(lines) + "\n").encode(), SPEC, "a.csv")
        assert result.by_line == [("unclosed_quote", 12)] and result.kept == 60


def test_a_stray_quote_that_happens_to_be_closed_lines_later_swallows_nothing(tmp_path: Path) -> None:
    head = [f'"Ticket {i}, is slow",bug_report' for i in range(20)]
    stray = ['"stray,bug_report', 'it ends with a "quote",bug_report', 'so does",P0_incident']
    lines = ["text,label", *head, *stray, *head]
    result = validate_bytes(tmp_path, "\n".join(lines).encode(), SPEC, "a.csv")
    assert result.kept == 42 and [line for _, line in result.by_line] == [22]
    tabs = ["text\tlabel", *[f"Ticket {i}\tx" for i in range(20)], '"stray\tx', 'closed"\tx', "Ticket\tx"]
    data = "\n".join(tabs).encode()
    result = validate_bytes(tmp_path, data, make_spec(TEXT_OUTPUT), "a.tsv")
    assert result.by_line == [("unclosed_quote", 22)] and "quote: none" in result.findings[0]["fix"]
    assert result.texts[-2:] == ['closed"', "Ticket"]
    letters = [(f"Dear Ann,\nit broke{' again' * i}, twice\nYours Bob", f"Sorry Ann {i}") for i in range(20)]
    assert values(tmp_path, table([("text", "answer"), *letters]).encode(), make_spec(TEXT_OUTPUT)) == [
        {"text": text, "answer": answer} for text, answer in letters
    ]
    free = make_spec(TEXT_OUTPUT, csv={"quote": "none"})
    assert [r["text"] for r in values(tmp_path, data, free, "a.tsv")][-3:] == ['"stray', 'closed"', "Ticket"]


def test_titles_above_a_table_are_no_rows_and_are_told(tmp_path: Path) -> None:
    rows = [["Tickets of 2026", ""], ["all teams", ""], ["text", "label"], *ROWS]
    for name, data in (("a.csv", table(rows).encode()), ("a.xlsx", workbook({"A": rows}))):
        result = validate_bytes(tmp_path, data, SPEC, name)
        assert result.by_line == [("title_rows", 0)] and result.kept == len(ROWS)
        assert result.findings[0]["message"].startswith("2 rows with few filled cells")


def test_a_header_once_more_is_no_row_and_blanks_may_stand_before_a_quote(tmp_path: Path) -> None:
    data = 'text, label\n"It broke, \n twice", "bug_report"\n\ufefftext, label\nit says, "bug" here\n'.encode()
    result = validate_bytes(tmp_path, data, make_spec(TEXT_OUTPUT), "a.csv")
    assert ("header_again", 4) in result.by_line and result.kept == 2
    read = [(r["text"], r["label"].strip()) for r in values(tmp_path, data, make_spec(TEXT_OUTPUT)) if r]
    assert read == [("It broke, \n twice", "bug_report"), ("it says", '"bug" here')]


@pytest.mark.parametrize(
    ("first", "data", "header"),
    [
        ("text,label", {}, True),
        ("body,queue", {"fields": {"text": "body", "label": "queue"}}, True),
        ("body,queue", {"csv": {"header": True}}, True),
        ("text,label", {"csv": {"header": False}}, False),
        ("text,bug_report", {}, False),
        ("why,how", {"fields": {"text": "c1", "label": "c2"}}, False),
        ("text,label", {"output": {"kind": "labels", "labels": ["text", "bug_report"]}}, True),
    ],
)
def test_a_missing_header_does_not_eat_row_one(tmp_path: Path, first: str, data: dict[str, Any], header: bool) -> None:
    rows = [tuple(first.split(",")), *ROWS]
    made = values(tmp_path, table(rows).encode(), make_spec(**data))
    assert len(made) == 6 - header
    assert tuple(made[0]) == (tuple(first.split(",")) if header else ("c1", "c2"))
    assert tuple(made[0].values()) == (ROWS[0] if header else tuple(first.split(",")))


def test_twenty_rows_say_whether_the_first_names_the_columns(tmp_path: Path) -> None:
    """With fewer, names that are not known are refused. `init` and the readers decide alike."""
    rows = [(f"Ticket {i} is slow, and nobody answers", ("a", "b")[i % 2]) for i in range(20)]
    for first, header in ((("wort", "schlange"), True), (("Ticket 99 is slow", "a"), False)):
        made = values(tmp_path, table([first, *rows]).encode(), make_spec(TEXT_OUTPUT))
        assert (len(made), [*made[0]]) == ((20, [*first]) if header else (21, ["c1", "c2"]))
        few = validate_bytes(tmp_path, table([first, *rows[:19]]).encode(), make_spec(TEXT_OUTPUT), "a.csv")
        assert (few.rules, few.rows_in) == ({"csv_dialect": 1}, 0)


@pytest.mark.parametrize(
    ("data", "csv", "said"),
    [
        (b"wort,queue\nIt broke,a\n", {}, "data: {csv: {header: true}}`, or false"),
        (b"It broke;slow, a\nIt broke;again, b\n", {"header": False}, "data: {csv: {delimiter: ','}}`, or ';'"),
        (b"a,b\nc\nd,e,f\ng,h,i,j\nk\nl;m\n", {}, "same number of fields"),
        (b'"x;bug_report\n";bug_report\n', {"delimiter": ";"}, "same number of fields"),
        (b"text,text\na,b\nc,d\n", {}, "two columns have the name 'text'"),
        (b"text,label,more\na,b\nc,d\ne,f\n", {}, "names 3 columns, the rows have 2 fields"),
    ],
)
def test_what_cannot_be_told_is_refused_with_what_was_seen_and_the_line_to_add(tmp_path, data, csv, said) -> None:
    result = validate_bytes(tmp_path, data, make_spec(csv=csv), "a.csv")
    assert (result.rules, result.rows_in) == ({"csv_dialect": 1}, 0)
    assert said in result.findings[0]["message"] + result.findings[0]["fix"]


def test_parquet_rows_of_every_shape(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"messages": [chat("It broke")["messages"]], "id": ["m1"], "group": [""]}
    columns["time"] = [dt.datetime(2026, 5, 1, 12, tzinfo=dt.UTC)]
    for name in ("a.parquet", "a.bin"):
        pq.write_table(pa.table(columns), tmp_path / name)
        result = validate_file(tmp_path / name, SPEC)
        (row,) = result.rows
        assert result.findings == [] and row["time"] == "2026-05-01T12:00:00Z"
        assert row["source"] == {"file": name, "line": 1, "id": "m1"} and row["group"] is None
    pq.write_table(pa.table([["a"], ["b"], ["c"]], names=["text", "label", "label"]), tmp_path / "b.parquet")
    twice = validate_file(tmp_path / "b.parquet", SPEC)
    assert "two columns have the name 'label'" in twice.findings[0]["message"] and twice.rules == {"bad_parquet": 1}
    columns = {"text": ["It broke", None], "label": ["bug_report", "P0_incident"], "n": [1.5, float("nan")]}
    text = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), text)
    assert validate_file(text, make_spec(max_unpacked_gib=1e-9)).rules == {"unpacked_too_large": 1}
    result = validate_file(text, SPEC)
    assert result.by_line == [("empty_field", 2)] and result.kept == 1 and result.ignored == {"n": 2}
    assert result.quarantine[0]["raw"] == '{"text":null,"label":"P0_incident","n":null}'
