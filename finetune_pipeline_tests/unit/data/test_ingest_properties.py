"""Whatever bytes come in: no exception, and every row is kept or quarantined with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.json_lines import is_blank
from finetune_pipeline.data.raw_files import container_facts
from finetune_pipeline_tests.unit.data.raw_rows import examples, validate_file
from finetune_pipeline_tests.unit.data.rows import LABELS, PROMPT, TEXT_OUTPUT, make_spec

BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
KEYS = [
    *("messages", "role", "content", "text", "label", "prompt", "completion", "instruction", "input", "output"),
    *("conversations", "from", "value", "tools", "tool_calls", "function", "name", "arguments", "weight", "type"),
    *("time", "tags", "group", "origin", "id", "system", "chosen", "generator", "é"),
]
WORDS = [
    *(PROMPT, "bug_report", "hello\x00", "<|a|>", "\ud800", "user", "assistant", "noinput", "[{", "{}", "text", "1e999")
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "User"]) | JSON,
        "content": st.sampled_from(WORDS) | JSON,
    },
    optional={"weight": JSON, "tool_calls": JSON, "tool_call_id": JSON, "reasoning_content": JSON},
)
ROW = (
    JSON
    | st.fixed_dictionaries(
        {"messages": st.lists(TURN, max_size=4)}, optional={"tools": JSON, "time": JSON, "label": JSON}
    )
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
NAMES = ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a", "a.parquet", "a.jsonl.gz", "a.xlsx"]


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def damaged(data: bytes, at: int, put: bytes, drop: int) -> bytes:
    """Something put into the bytes, or taken out of them."""
    at = at % (len(data) + 1)
    return data[:at] + put + data[at + drop :]


DAMAGE = st.tuples(
    st.integers(0, 5000),
    st.binary(max_size=4) | st.sampled_from([b'"', b"]", b"}", b",", b"\n", b"\xed\xa0\x80"]),
    st.integers(0, 6),
)
LINES = st.lists(ROW.map(encoded) | st.binary(max_size=30), max_size=5).map(b"\n".join)
DOCUMENT = st.builds(
    lambda rows, indent: json.dumps(rows, indent=indent).encode(),
    st.lists(ROW, max_size=4) | st.dictionaries(st.text(max_size=3), st.lists(ROW, max_size=3) | JSON, max_size=3),
    st.sampled_from([None, 1]),
)
CELL = st.text(st.sampled_from("ab,;\t|\"'\n\r é\0"), max_size=8) | st.sampled_from(
    [*WORDS[:1], *LABELS, "text", "label"]
)
TABLE = st.builds(
    lambda rows, d: "\n".join(d.join(row) for row in rows).encode("utf-8", "replace"),
    st.lists(st.lists(CELL, min_size=1, max_size=3), max_size=8),
    st.sampled_from(",;\t|"),
)
ANY = st.binary(max_size=200) | LINES | DOCUMENT | TABLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def accounted(path: Path, spec: Any, size: int) -> Any:
    """Validate a file and check that everything adds up."""
    long = validate_file(path, spec, size=size)
    assert long.rows_in == long.kept + len(long.quarantine) == sum(long.shapes.values())
    rows = examples(long)
    assert len(rows) == long.kept and all(row["messages"][-1]["role"] == "assistant" for row in rows)
    assert sum(long.labels.values()) == (long.kept if spec.labels else 0)
    assert all(any(f["severity"] == "error" for f in q["findings"]) for q in long.quarantine)
    assert sum(long.by_rule.values()) == len(long.findings)
    msgspec.json.encode([long.quarantine, long.findings, dict(long.ignored), dict(long.shapes)])
    seen = container_facts(path, path.name, spec)
    assert seen["container"] in ("json_lines", "json", "csv", "parquet", "workbook", "unknown") and seen["reason"]
    return long


@BOUNDED
@given(
    data=ANY,
    damage=st.none() | DAMAGE,
    name=st.sampled_from(NAMES),
    which=st.integers(0, 4),
    size=st.sampled_from([1, 50, 1 << 20]),
)
def test_any_bytes_in_any_container(folder: Path, data: bytes, damage: Any, name: str, which: int, size: int) -> None:
    path = folder / name
    path.write_bytes(damaged(data, *damage) if damage else data)
    accounted(path, SPECS[which], size)


@BOUNDED
@given(lines=st.lists(ROW.map(encoded) | st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"")), max_size=6))
def test_every_line_of_json_lines_is_a_row(folder: Path, lines: list[bytes]) -> None:
    path = folder / "c.jsonl"
    path.write_bytes(b"\n".join([b'{"text": "It broke", "label": "bug_report"}', b'{"text": "x"}', *lines]))
    result = accounted(path, SPECS[0], 64)
    refused = "data.unknown_encoding" in result.by_rule  # so many wrong lines make it a question of the encoding
    assert result.rows_in == 0 if refused else result.rows_in == 2 + sum(not is_blank(line) for line in lines)
