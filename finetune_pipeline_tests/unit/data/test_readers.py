from __future__ import annotations

import gzip
import json
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.examples import decode_examples
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.readers.any_file import look_at, read_records
from finetune_pipeline_tests.unit.data.raw_rows import (
    examples,
    records_of,
    rules,
    rules_by_line,
    texts,
    validate_bytes,
)
from finetune_pipeline_tests.unit.data.rows import as_lines, make_spec

SPEC = make_spec()
ROWS = [{"text": f"It broke {i} times", "label": "bug_report"} for i in range(6)]


def raws(folder: Path, data: bytes, spec: Any = SPEC, name: str = "a.json") -> list[tuple[int, bytes]]:
    return [(r.line, r.raw) for r in records_of(folder, data, spec, name)]


# --- JSON Lines -------------------------------------------------------------------------------------------------------


def test_reading_lines_takes_constant_memory(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(as_lines([{"text": "It broke again and again. " * 8, "label": "bug_report"}]) * 40_000)
    tracemalloc.start()
    count = sum(1 for _ in read_records(lines, lines.name, SPEC))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000 and peak < 6 << 20 < lines.stat().st_size


# --- gzip -------------------------------------------------------------------------------------------------------------


def as_table(rows: list[dict[str, str]]) -> bytes:
    return b"text,label\n" + b"".join(f"{r['text']},{r['label']}\n".encode() for r in rows)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_broken_gzip_keeps_the_rows_before_it(tmp_path: Path, name: str) -> None:
    rng = random.Random(0)
    rows = [{"text": f"broken {rng.getrandbits(64):x}", "label": "bug_report"} for _ in range(3000)]
    forms = {"a.jsonl.gz": as_lines, "a.json.gz": lambda r: json.dumps(r, indent=1).encode(), "a.csv.gz": as_table}
    whole = gzip.compress(forms[name](rows))
    cut = validate_bytes(tmp_path, whole[: len(whole) * 2 // 3], SPEC, name)
    assert cut.by_rule["data.bad_gzip"] == 1 and 1000 < cut.kept < 3000
    assert texts(cut) == [r["text"] for r in rows[: cut.kept]]
    assert "cut off" in cut.quarantine[-1]["findings"][0]["message"]
    assert len(cut.quarantine) <= 2 and [f["about"] for f in cut.unread] == ["rest"]
    middle = len(whole) * 2 // 3
    bad = validate_bytes(tmp_path, whole[:middle] + b"\xff" * 64 + whole[middle + 64 :], SPEC, name)
    assert bad.by_rule["data.bad_gzip"] == 1 and bad.kept > 1000
    assert "% of the way in" in bad.unread[0]["message"] and "allow_truncated" in bad.unread[0]["fix"]


# --- JSON documents ---------------------------------------------------------------------------------------------------


def test_rows_are_named_by_the_line_they_begin_in(tmp_path: Path) -> None:
    data = json.dumps(ROWS[:3], indent=1).encode()
    records = records_of(tmp_path, data, SPEC)
    assert [r.line for r in records] == [2, 6, 10]
    assert all(r.at is not None and data[r.at : r.at + len(r.raw)] == r.raw for r in records)


def test_rows_of_a_document_in_one_line_are_named_by_their_number(tmp_path: Path) -> None:
    bad = [*ROWS[:2], {"text": "It broke", "label": "bugs"}, ROWS[3]]
    result = validate_bytes(tmp_path, json.dumps(bad).encode(), SPEC, "a.json")
    assert [e["source"] for e in examples(result)] == [{"file": "a.json", "line": 1, "item": n} for n in (1, 2, 4)]
    assert [f["place"] for f in result.findings] == ["a.json:1, item 3"] and result.quarantine[0]["item"] == 3
    assert decode_examples(result.examples)[2].made_from == "a.json:1, item 4"  # rows of one line are not of one source
    assert dict(result.unknown) == {"bugs": 1}


def test_an_object_of_lists_gives_its_keys(tmp_path: Path) -> None:
    document = {"train": [["a b", "x"], ["c d", "y"]], "test": [["e f", "x"]], "empty": []}
    for indent in (None, 2):
        records = records_of(tmp_path, json.dumps(document, indent=indent).encode(), SPEC)
        assert [(r.key, json.loads(r.raw)) for r in records] == [
            (key, row) for key in document for row in document[key]
        ]
    data = b'{"train": [{"text": "aa", "label": "bug_report"}], "version": 3, "n": {"a": [1]}}'
    mixed = validate_bytes(tmp_path, data, SPEC, "a.json")
    assert rules(mixed) == {"not_rows": 2} and mixed.kept == 1


def test_the_spec_may_say_where_the_rows_are(tmp_path: Path) -> None:
    document = {"about": {"rows": [1, 2]}, "data": {"rows": ROWS, "n": 6}}
    data = json.dumps(document, indent=1).encode()
    for expression, kept in (("data.rows", 6), ("data.rows[]", 6), ("data.rows[?text != 'It broke 2 times']", 5)):
        result = validate_bytes(tmp_path, data, make_spec(fields={"rows": expression}), "a.json")
        assert (result.kept, result.findings) == (kept, [])
    lines = [r.line for r in records_of(tmp_path, data, make_spec(fields={"rows": "data.rows"}))]
    assert lines == [data[: data.index(b'"text": "It broke %d' % i)].count(b"\n") for i in range(6)]
    wrong = {"data.lines": "missing_field", "data.n || `3`": "missing_field", "join(data, data)": "field_expression"}
    for expression, rule in wrong.items():
        assert rules(validate_bytes(tmp_path, data, make_spec(fields={"rows": expression}), "a.json")) == {rule: 1}


def document(item: bytes, style: str) -> bytes:
    """Six rows with something else between the third and the fourth."""
    between = {"minified": b",", "lines": b",\n", "pretty": b",\n  "}[style]
    rows = [json.dumps(r, indent=1 if style == "pretty" else None).encode() for r in ROWS]
    return b"[" + between[1:] + between.join([*rows[:3], item, *rows[3:]]) + b"]"


@pytest.mark.parametrize(
    "item",
    [
        b'{"text": "raw\x01control", "label": "bug_report"}',
        b'{"text": "bad \xff byte", "label": "bug_report"}',
        b'{"text": "twice", "text": "twice", "label": "bug_report"}',
        b"NaN",
        b"1" * 5000,
    ],
)
def test_a_wrong_row_costs_itself_only(tmp_path: Path, item: bytes) -> None:
    for style in ("minified", "lines", "pretty"):
        data = document(item, style)
        result = validate_bytes(tmp_path, data, SPEC, "a.json")
        assert texts(result) == [r["text"] for r in ROWS]
        assert [q["line"] for q in result.quarantine] == [data[: data.index(item)].count(b"\n") + 1]


@pytest.mark.parametrize(
    ("item", "broken_at", "said"),
    [
        (b'{"text": "quote broke, "label": "bug_report"}', 24, "Expecting ',' delimiter"),
        (b'{"text": "no end", "label": "bug_report"', 41, None),
        (b"nonsense", 0, "Expecting value"),
    ],
)
def test_a_break_keeps_the_rows_before_it_and_is_named_by_its_byte(
    tmp_path: Path, item: bytes, broken_at: int, said: str | None
) -> None:
    for style in ("minified", "lines", "pretty"):
        data = document(item, style)
        result = validate_bytes(tmp_path, data, SPEC, "a.json")
        assert texts(result) == [r["text"] for r in ROWS[:3]] and rules(result) == {"bad_json": 1}
        assert result.quarantine[0]["line"] == data[: data.index(item)].count(b"\n") + 1
        message = result.findings[0]["message"]
        assert "nothing behind it was read" in message and result.unread[0]["message"] == message
        if said:
            assert f"broken at byte {data.index(item) + broken_at}: {said}" in message


def test_a_document_that_is_cut_off_loses_its_last_row_only(tmp_path: Path) -> None:
    data = json.dumps(ROWS, indent=1).encode()
    for cut in range(data.index(b"}") + 1, len(data)):
        whole = data[:cut].count(b"}")
        result = validate_bytes(tmp_path, data[:cut], SPEC, "a.json")
        assert (result.kept, result.rows_in) == (whole, whole + 1), data[:cut]
        assert result.quarantine[0]["findings"][0]["rule"] == "data.bad_json"
        assert "cut off at its end" in result.unread[0]["message"] and result.unread[0]["about"] == "rest"


def test_lines_that_end_in_the_middle_of_a_row_were_cut_off(tmp_path: Path) -> None:
    """Nobody knows how many rows are missing, so it is more than one bad row."""
    lines = as_lines(ROWS)
    for name, data in (("a.jsonl", lines), ("a.csv", as_table(ROWS))):
        whole = validate_bytes(tmp_path, data[:-1], SPEC, name)
        assert (whole.kept, whole.findings, whole.unread) == (6, [], [])
        for cut in range(data.rindex(b"\n", 0, -1) + 2, len(data) - len(b"bug_report\n")):
            result = validate_bytes(tmp_path, data[:cut], SPEC, name)
            assert result.kept == 5 and [f["about"] for f in result.unread] == ["rest"], data[:cut]
    broken = validate_bytes(tmp_path, lines + b"{'single': 'quotes'}", SPEC, "a.jsonl")
    assert rules(broken) == {"bad_json": 1} and broken.unread == []


def test_files_without_rows_are_said_once_and_are_no_bad_rows(tmp_path: Path) -> None:
    empty = [("a.jsonl", b""), ("a.jsonl", b"\n \n" * 9_000), ("a.json", b"[]"), ("a.json", b'{"rows": []}')]
    for name, data in (*empty, ("a.csv", b"text,label\n"), ("a.jsonl.gz", gzip.compress(b""))):
        result = validate_bytes(tmp_path, data, SPEC, name)
        assert (result.rows_in, result.quarantine, rules(result)) == (0, [], {"no_rows": 1}), (name, data)
        assert result.unread[0]["severity"] == "warning"


def test_blank_lines_cost_nothing_and_unpacking_has_a_limit(tmp_path: Path) -> None:
    """A gzip of a GiB of line ends took ten minutes. Here 64 MiB, so that a line at a time would take half a minute."""
    for name, head in (("a.jsonl.gz", b""), ("a.csv.gz", b"text,label\n")):
        rows = as_lines(ROWS[:2]).split(b"\n") if "json" in name else [b"It broke,bug_report", b"Again,bug_report"]
        data = gzip.compress(head + rows[0] + b"\n" * (64 << 20) + rows[1] + b"\n", 1)
        begin = time.process_time()
        result = validate_bytes(tmp_path, data, SPEC, name)
        assert time.process_time() - begin < 8
        assert [q["source"]["line"] for q in examples(result)] == [head.count(b"\n") + n for n in (1, (64 << 20) + 1)]
        refused = validate_bytes(tmp_path, data, make_spec(max_unpacked_gib=0.05), name)
        assert (refused.rows_in, rules(refused)) == (0, {"unpacked_too_large": 1})


@pytest.mark.parametrize(
    ("text", "kept", "expected"),
    [
        ("[%s %s]", 1, ("bad_json", 1)),
        ("[%s,%s,]", 2, ("bad_json", 1)),
        ("[\n%s\n]\nend %s", 1, ("bad_json", 4)),
        ('{"a": [%s], "b" [%s]}', 1, ("bad_json", 1)),
        ('{"a": [%s], b: [%s]}', 1, ("bad_json", 1)),
    ],
)
def test_what_is_wrong_between_rows_is_named(tmp_path: Path, text: str, kept: int, expected: tuple[str, int]) -> None:
    rows = [json.dumps(r) for r in ROWS[: text.count("%s")]]
    result = validate_bytes(tmp_path, (text % tuple(rows)).encode(), SPEC, "a.json")
    assert (result.kept, rules_by_line(result)) == (kept, [expected])


def test_a_row_longer_than_a_line_may_be(tmp_path: Path) -> None:
    rows = [json.dumps(r).encode() for r in ROWS]
    monster = b'{"text": "' + b"x" * (MAX_LINE_BYTES + 100) + b'", "more": [{"a": "]"}]}'
    result = validate_bytes(tmp_path, b"[" + b",\n".join([rows[0], monster, *rows[1:]]) + b"]", SPEC, "a.json")
    assert rules_by_line(result) == [("line_too_long", 2)] and result.kept == 6


# --- what a file is ---------------------------------------------------------------------------------------------------


def test_content_decides_what_a_file_is(tmp_path: Path) -> None:
    long = b"a" * (1 << 20)
    for data, name, kind in (
        (b'{"text": "a"}\n{"text": "b"}\n', "a.json", "json_lines"),
        (b'{"text": "a"}', "a.json", "json_lines"),
        (b'{"data": [{"text": "a"}]}', "a.jsonl", "json"),
        (b'{"data": [{"text": "' + long + b'"}]}', "a.json", "json"),
        (b'[{"text": "' + long + b'"}]', "a.json", "json"),
        (b'{"text": "' + long + b'"}', "a.json", "json_lines"),
        (b'{"messages": [{"content": "' + long + b'"}]}', "a.jsonl", "json_lines"),
        (b'[{"text": "a"},\n{"text": "b"}]', "a.jsonl", "json"),
        (b'{"text": "The exp\n{"text": "b"}\n{"text": "c"}\n', "a.jsonl", "json_lines"),
        (b'{\n "text": "a"\n}\n', "a.jsonl", "json"),
        (b"garbage\n" * 3, "a.jsonl", "json_lines"),
        (b'garbage\n{"text": "a"}\n', "a.txt", "json_lines"),
        (b"text,label\na,b\n", "a.txt", "csv"),
        (b"PAR1....PAR1", "a.jsonl", "parquet"),
    ):
        (tmp_path / name).write_bytes(data)
        assert look_at(tmp_path / name, name, SPEC)[0].kind == kind, data[:40]
