"""Whatever comes in: no stage crashes, and every row is kept, quarantined, or the repeat of another."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import examples_of, read_examples
from finetune_pipeline.data.raw_files import container_of
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.split.ledger import SPLITS, record_assignments
from finetune_pipeline.data.split.splitting import assignments_in, split
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.findings import FindingsError
from finetune_pipeline_tests.unit.data.raw_rows import validate_file
from finetune_pipeline_tests.unit.data.rows import LABELS, PROMPT, TEXT_OUTPUT, make_spec, read_lines, write_raw

BOUNDED = settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
SAID = st.sampled_from([*"export café 日本 not a@b.example on off \x07 {{x}} <b>".split(" "), "row 5", "row 6", ""])
BARE = st.binary(max_size=40).map(lambda b: b.replace(b"\n", b""))
TICKET = st.fixed_dictionaries(
    {"text": st.lists(SAID, min_size=1, max_size=9).map(" ".join), "label": st.sampled_from([*LABELS, "none of them"])},
    optional={
        "group": st.sampled_from(["g1", "g2"]),
        "origin": st.sampled_from(["human", "synthetic", "production"]),
        "time": st.sampled_from(["2026-01-01T00:00:00Z", "soon"]),
    },
).map(lambda ticket: json.dumps(ticket).encode())


@pytest.mark.parametrize("output", [None, TEXT_OUTPUT], ids=["labels", "text"])
@settings(BOUNDED, max_examples=40)
@given(lines=st.lists(TICKET | BARE, max_size=14))
@example(lines=[b'{"text": "aa", "label": "bug_report"}'] * 3)
def test_every_row_is_accounted_for(tmp_path_factory, output, lines) -> None:
    folder = tmp_path_factory.mktemp("stage")
    spec = make_spec(output, min_chars=1)
    write_raw(folder / "raw", lines)
    v = validate(folder / "raw", spec, folder / "validated")
    c = clean(folder / "validated", spec, folder / "clean", key=b"key")
    r = apply_reviews(folder / "clean", folder / "reviews", spec, folder / "reviewed")
    quarantined = read_lines(folder / "validated/quarantine.jsonl")
    assert v.rows_in == v.kept + v.quarantined == v.kept + len(quarantined)
    assert c.rows_in == v.kept == c.kept + c.quarantined + c.exact_duplicates + c.near_duplicates
    assert c.quarantined == len(read_lines(folder / "clean/quarantine.jsonl"))
    repeats = read_lines(folder / "clean/duplicates.jsonl")
    assert c.exact_duplicates + c.near_duplicates == len(repeats)
    kept = read_examples(folder / "clean")
    assert {d["kept_id"] for d in repeats} <= {e.id for e in kept} and r.kept == len(kept)
    if kept:
        try:
            splits = split(folder / "reviewed", folder / "clean", spec, folder / "ledger", folder / "out")
        except FindingsError as error:  # nothing but training rows: there is nothing to test the leakage check with
            assert "no validation or test rows" in str(error)
        else:
            record_assignments(assignments_in(folder / "out"), folder / "ledger")
            placed = Counter(e.id for name in SPLITS for e in read_examples(examples_of(folder / "out", name)))
            assert max(placed.values()) == 1 and set(placed) <= {e.id for e in kept}
            assert len(kept) == len(placed) + splits.quarantined
            assert splits.leaks == {"exact": 0, "near": 0, "group": 0}
    shutil.rmtree(folder)


KEYS = [
    *("messages", "role", "content", "text", "label", "prompt", "completion", "instruction", "input", "output"),
    *("conversations", "from", "value", "tools", "tool_calls", "function", "name", "arguments", "weight", "type"),
    *("time", "tags", "group", "origin", "id", "system", "chosen", "generator", "é", "te\udc00xt", "la\x1bbel"),
]
WORDS = [PROMPT, *LABELS, "hello\x00", "<|a|>", "\ud800", "user", "assistant", "noinput", "[{", "{}", "text", "1e999"]
KEY = st.sampled_from(KEYS) | st.text(max_size=3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=10,
)
ROLE = st.sampled_from(["system", "user", "assistant", "tool", "User"]) | JSON
TURN = st.fixed_dictionaries(
    {"role": ROLE, "content": st.sampled_from(WORDS) | JSON},
    optional=dict.fromkeys(("weight", "tool_calls", "tool_call_id", "reasoning_content"), JSON),
)
MORE = dict.fromkeys(("tools", "time", "label"), JSON)
ROW = (
    JSON
    | st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)}, optional=MORE)
    | st.fixed_dictionaries({"text": st.sampled_from(WORDS) | JSON, "label": st.sampled_from(LABELS) | JSON})
    | st.fixed_dictionaries({"conversations": st.lists(TURN, max_size=3), "system": JSON})
)
SPECS = [
    make_spec(),
    make_spec(TEXT_OUTPUT, inject=True, max_chars=200),
    make_spec(fields={"text": "join('', data[].text) || [0]", "label": "$key"}, csv={"encoding": "utf-16"}),
    make_spec(fields={"rows": "messages[].content", "each": "tools"}, roles={"User": "user"}),
    make_spec(
        TEXT_OUTPUT, fields={"rows": "a.b", "prompt": "to_string(@)", "completion": "c2"}, csv={"delimiter": ","}
    ),
]
ENCODED = ROW.map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a", "a.parquet", "a.jsonl.gz", "a.xlsx"]


def damaged(data: bytes, at: int, put: bytes, drop: int) -> bytes:
    """Something put into the bytes, or taken out of them."""
    at = at % (len(data) + 1)
    return data[:at] + put + data[at + drop :]


PUT = st.binary(max_size=4) | st.sampled_from([b'"', b"]", b"}", b",", b"\n", b"\xed\xa0\x80"])
DAMAGE = st.tuples(st.integers(0, 5000), PUT, st.integers(0, 6))
LINES = st.lists(ENCODED | st.binary(max_size=30), max_size=5).map(b"\n".join)
DOCUMENT = st.builds(
    lambda rows, indent: json.dumps(rows, indent=indent).encode(),
    st.lists(ROW, max_size=4) | st.dictionaries(st.text(max_size=3), st.lists(ROW, max_size=3) | JSON, max_size=3),
    st.sampled_from([None, 1]),
)
CELL = st.text(st.sampled_from("ab,;\t|\"'\n\r é\0"), max_size=8) | st.sampled_from([PROMPT, *LABELS, "text", "label"])
TABLE = st.builds(
    lambda rows, d: "\n".join(d.join(row) for row in rows).encode("utf-8", "replace"),
    st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=8),
    st.sampled_from(",;\t|"),
)
ANY = st.binary(max_size=200) | LINES | DOCUMENT | TABLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


SIZE = st.sampled_from([1, 50, 1 << 20])


@BOUNDED
@given(ANY, st.none() | DAMAGE, st.sampled_from(NAMES), st.integers(0, 4), SIZE)
def test_any_bytes_in_any_container(folder: Path, data: bytes, damage: Any, name: str, which: int, size: int) -> None:
    path = folder / name
    path.write_bytes(damaged(data, *damage) if damage else data)
    spec = SPECS[which]
    long = validate_file(path, spec, size=size)
    assert long.rows_in == long.kept + len(long.quarantine) == sum(long.shapes.values())
    rows = long.rows
    assert len(rows) == long.kept and all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert sum(long.labels.values()) == (long.kept if spec.labels else 0)
    assert all(any(f["severity"] == "error" for f in q["findings"]) for q in long.quarantine)
    assert sum(long.by_rule.values()) == len(long.findings)
    msgspec.json.encode([long.quarantine, long.findings, dict(long.ignored), dict(long.shapes)])
    container, reason = container_of(path, path.name, spec)
    assert container in ("json_lines", "json", "csv", "parquet", "workbook", "unknown") and reason
