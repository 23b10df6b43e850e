import bz2
import gzip
import io
import itertools
import json
import random
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_pipeline.data.examples import decode_examples
from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.data.readers.any_file import look_at, read_records
from finetune_pipeline_tests.unit.data.raw_rows import records_of, table, validate_bytes
from finetune_pipeline_tests.unit.data.rows import as_lines, make_spec

SPEC = make_spec()
ROWS = [{"text": f"It broke {i} times", "label": "bug_report"} for i in range(6)]


def as_table(rows: list[dict[str, str]]) -> bytes:
    return table([["text", "label"], *(list(r.values()) for r in rows)]).encode()


def test_reading_lines_takes_constant_memory(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_bytes(as_lines([{"text": "It broke again and again. " * 8, "label": "bug_report"}]) * 20_000)
    tracemalloc.start()
    count = sum(1 for _ in read_records(lines, lines.name, SPEC))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000 and peak < 4 << 20 < lines.stat().st_size


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.csv.gz"])
def test_a_broken_gzip_keeps_the_rows_before_it(tmp_path: Path, name: str) -> None:
    rng = random.Random(0)
    rows = [{"text": f"broken {rng.getrandbits(64):x}", "label": "bug_report"} for _ in range(3000)]
    forms = {"a.jsonl.gz": as_lines, "a.json.gz": lambda r: json.dumps(r, indent=1).encode(), "a.csv.gz": as_table}
    whole = gzip.compress(forms[name](rows))
    cut = validate_bytes(tmp_path, whole[: len(whole) * 2 // 3], SPEC, name)
    assert cut.by_rule["data.bad_gzip"] == 1 and 1000 < cut.kept < 3000
    assert cut.texts == [r["text"] for r in rows[: cut.kept]]
    assert "cut off" in cut.quarantine[-1]["findings"][0]["message"]
    assert len(cut.quarantine) <= 2 and [f.about for f in cut.unread] == ["rest"]
    middle = len(whole) * 2 // 3
    bad = validate_bytes(tmp_path, whole[:middle] + b"\xff" * 64 + whole[middle + 64 :], SPEC, name)
    assert bad.by_rule["data.bad_gzip"] == 1 and bad.kept > 1000
    assert "% of the way in" in bad.unread[0].message and "allow_truncated" in bad.unread[0].fix


def test_rows_are_named_by_the_line_they_begin_in_or_by_their_number_in_it(tmp_path: Path) -> None:
    data = json.dumps(ROWS[:3], indent=1).encode()
    records = records_of(tmp_path, data, SPEC)
    assert [r.line for r in records] == [2, 6, 10]
    assert all(r.at is not None and data[r.at : r.at + len(r.raw)] == r.raw for r in records)
    bad = [*ROWS[:2], {"text": "It broke", "label": "bugs"}, ROWS[3]]
    result = validate_bytes(tmp_path, json.dumps(bad).encode(), SPEC, "a.json")
    assert [e["source"] for e in result.rows] == [{"file": "a.json", "line": 1, "item": n} for n in (1, 2, 4)]
    assert [f["place"] for f in result.findings] == ["a.json:1, item 3"] and result.quarantine[0]["item"] == 3
    assert decode_examples(result.examples)[2].made_from == "a.json:1, item 4"  # rows of one line are not of one source
    assert dict(result.unknown) == {"bugs": 1}


def test_an_object_of_lists_gives_its_keys(tmp_path: Path) -> None:
    document = {"train": [["a b", "x"], ["c d", "y"]], "test": [["e f", "x"]], "empty": []}
    for indent in (None, 2):
        records = records_of(tmp_path, json.dumps(document, indent=indent).encode(), SPEC)
        assert [(r.key, json.loads(r.raw)) for r in records] == [(k, row) for k in document for row in document[k]]
    data = b'{"train": [{"text": "aa", "label": "bug_report"}], "version": 3, "n": {"a": [1]}}'
    mixed = validate_bytes(tmp_path, data, SPEC, "a.json")
    assert mixed.rules == {"not_rows": 2} and mixed.kept == 1


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
        assert validate_bytes(tmp_path, data, make_spec(fields={"rows": expression}), "a.json").rules == {rule: 1}


def document(item: bytes, style: str) -> bytes:
    """Six rows with something else between the third and the fourth."""
    between = {"minified": b",", "lines": b",\n", "pretty": b",\n  "}[style]
    rows = [json.dumps(r, indent=1 if style == "pretty" else None).encode() for r in ROWS]
    return b"[" + between[1:] + between.join([*rows[:3], item, *rows[3:]]) + b"]"


def test_a_wrong_row_costs_itself_only_and_a_break_those_behind_it(tmp_path: Path) -> None:
    items = [b'{"text": "a\x01"}', b'{"text": "bad \xff byte"}', b'{"text": "a", "text": "a"}', b"NaN", b"1" * 5000]
    quote = b'{"text": "quote broke, "label": "x"}'
    breaks = {quote: (24, "Expecting ',' delimiter"), b"nonsense": (0, "Expecting value")}
    for style, item in itertools.product(("minified", "lines", "pretty"), (*items, *breaks)):
        data = document(item, style)
        result = validate_bytes(tmp_path, data, SPEC, "a.json")
        assert [q["line"] for q in result.quarantine] == [data[: data.index(item)].count(b"\n") + 1]
        assert result.texts == [r["text"] for r in (ROWS[:3] if item in breaks else ROWS)]
        if item in breaks:
            at, said = breaks[item]
            message = result.findings[0]["message"]
            assert f"broken at byte {data.index(item) + at}: {said}" in message and "nothing after it" in message
            assert result.rules == {"bad_json": 1} and result.unread[0].message == message


def test_a_document_that_is_cut_off_loses_its_last_row_only(tmp_path: Path) -> None:
    data = json.dumps(ROWS, indent=1).encode()
    for cut in range(data.index(b"}") + 1, len(data), 3):
        whole = data[:cut].count(b"}")
        result = validate_bytes(tmp_path, data[:cut], SPEC, "a.json")
        assert (result.kept, result.rows_in) == (whole, whole + 1), data[:cut]
        assert result.quarantine[0]["findings"][0]["rule"] == "data.bad_json"
        assert "cut off at its end" in result.unread[0].message and result.unread[0].about == "rest"


def test_lines_that_end_in_the_middle_of_a_row_were_cut_off(tmp_path: Path) -> None:
    """Nobody knows how many rows are missing, so it is more than one bad row."""
    lines = as_lines(ROWS)
    for name, data in (("a.jsonl", lines), ("a.csv", as_table(ROWS))):
        whole = validate_bytes(tmp_path, data[:-1], SPEC, name)
        assert (whole.kept, whole.findings, whole.unread) == (6, [], [])
        for cut in range(data.rindex(b"\n", 0, -1) + 2, len(data) - len(b"bug_report\n")):
            result = validate_bytes(tmp_path, data[:cut], SPEC, name)
            assert result.kept == 5 and [f.about for f in result.unread] == ["rest"], data[:cut]
    broken = validate_bytes(tmp_path, lines + b"{'single': 'quotes'}", SPEC, "a.jsonl")
    assert broken.rules == {"bad_json": 1} and broken.unread == []


def test_blank_lines_cost_nothing_and_unpacking_has_a_limit(tmp_path: Path) -> None:
    """32 MiB of line ends: a line at a time, they would take a quarter of a minute."""
    for name, head in (("a.jsonl.gz", b""), ("a.csv.gz", b"text,label\n")):
        rows = as_lines(ROWS[:2]).split(b"\n") if "json" in name else [b"It broke,bug_report", b"Again,bug_report"]
        data = gzip.compress(head + rows[0] + b"\n" * (32 << 20) + rows[1] + b"\n", 1)
        begin = time.process_time()
        result = validate_bytes(tmp_path, data, SPEC, name)
        assert time.process_time() - begin < 6
        assert [q["source"]["line"] for q in result.rows] == [head.count(b"\n") + n for n in (1, (32 << 20) + 1)]
        refused = validate_bytes(tmp_path, data, make_spec(max_unpacked_gib=0.02), name)
        assert (refused.rows_in, refused.rules) == (0, {"unpacked_too_large": 1})


def test_lines_may_end_with_the_comma_of_a_list(tmp_path: Path) -> None:
    rows = [{"text": f"It broke {i}", "label": "bug_report", "meta": {"n": 1}} for i in range(3)]
    data = "".join(json.dumps(row) + ",\n" for row in rows[:2]) + f"\ufeff{json.dumps(rows[2])}\n"  # two files joined
    result = validate_bytes(tmp_path, (data + '{"text": "no", "meta": {"n": 1},\n').encode(), make_spec(), "a.jsonl")
    assert (result.kept, result.by_line) == (3, [("bad_json", 4), ("byte_order_mark", 3)])


def test_documents_that_follow_one_another_are_read(tmp_path: Path) -> None:
    for indent, rest in ((None, b""), (1, b"\n")):
        data = rest.join(json.dumps(row, indent=indent).encode() for row in ROWS)
        assert validate_bytes(tmp_path, data, SPEC, "a.json").texts == [row["text"] for row in ROWS]
    commented = validate_bytes(tmp_path, b'// made by hand\n{"text": "a"}\n', SPEC, "a.json")
    assert commented.findings[0]["fix"] == "JSON has no comments: remove them"


def test_what_is_wrong_between_rows_is_named(tmp_path: Path) -> None:
    rows = [json.dumps(r).encode() for r in ROWS]
    for text, kept, line in (
        (b"[%s %s]", 1, 1),
        (b"[%s,%s,]", 2, 1),
        (b"[\n%s\n]\nend %s", 1, 4),
        (b'{"a": [%s], "b" [%s]}', 1, 1),
        (b'{"a": [%s], b: [%s]}', 1, 1),
    ):
        result = validate_bytes(tmp_path, text % tuple(rows[:2]), SPEC, "a.json")
        assert (result.kept, result.by_line) == (kept, [("bad_json", line)]), text
    monster = b'{"text": "' + b"x" * (MAX_LINE_BYTES + 100) + b'", "more": [{"a": "]"}]}'
    result = validate_bytes(tmp_path, b"[" + b",\n".join([rows[0], monster, *rows[1:]]) + b"]", SPEC, "a.json")
    assert result.by_line == [("line_too_long", 2)] and result.kept == 6


def test_content_decides_what_a_file_is(tmp_path: Path) -> None:
    long = b"a" * (1 << 20)
    for data, name, kind in (
        (b'{"data": [{"text": "' + long + b'"}]}', "a.json", "json"),
        (b'{"text": "' + long + b'"}', "a.json", "json_lines"),
        (b'{"messages": [{"content": "' + long + b'"}]}', "a.jsonl", "json_lines"),
        (b'{"text": "The exp\n{"text": "b"}\n{"text": "c"}\n', "a.jsonl", "json_lines"),
        (b'{\n "text": "a"\n}\n', "a.jsonl", "json"),
        (b'garbage\n{"text": "a"}\n', "a.txt", "json_lines"),
        (b'text|label\n"it says\n{ }"|x\nno|y\n', "a.txt", "csv"),
        (bz2.compress(b'{"text": "a"}\n'), "a.jsonl.bz2", "unknown"),
        (gzip.compress(b"a.jsonl".ljust(257, b"\0") + b'ustar\n{"text": "a"}\n'), "a.jsonl", "unknown"),
    ):
        (tmp_path / name).write_bytes(data)
        assert look_at(tmp_path / name, name, SPEC)[0].kind == kind, data[:40]


def parquet_of_one_text(rows: int, size: int, nested: bool = False) -> bytes:
    """A Parquet file whose rows all hold one text, which is stored once."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))
    column = pa.ListArray.from_arrays(pa.array([0, rows], pa.int32()), texts) if nested else texts
    out = io.BytesIO()
    pq.write_table(pa.table({"text": column, "label": ["a"] * len(column)}), out, compression="zstd")
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (parquet_of_one_text(20_000, 1 << 20), "unpacked_too_large"),
        (parquet_of_one_text(20_000, 1 << 20, nested=True), "unpacked_too_large"),
        (parquet_of_one_text(400, 1 << 20, nested=True), "line_too_long"),
        (parquet_of_one_text(9, 9 << 20), "line_too_long"),
    ],
)
def test_a_small_parquet_file_that_unpacks_to_much_is_refused_in_little_memory(
    tmp_path: Path, data: bytes, rule: str
) -> None:
    """20 GiB of texts from a file of a few kB."""
    (tmp_path / "a.parquet").write_bytes(data)
    spec, rules, largest = make_spec(max_unpacked_gib=0.5), set(), 0
    tracemalloc.start()
    try:
        for record in read_records(tmp_path / "a.parquet", "a.parquet", spec):
            rules |= {finding.rule.removeprefix("data.") for finding in record.findings}
        _, largest = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rule in rules and len(data) < 1 << 20
    assert largest < 200 << 20
