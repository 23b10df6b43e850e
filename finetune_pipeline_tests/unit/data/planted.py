"""A corpus with planted faults: every file a container, every fault known by its rule and its line; and a clean one."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.raw_rows import A, S, U, turn
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, as_line, as_lines, chat, make_spec

CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
MANY = 40


@dataclass
class File:
    """A file of the corpus: how to write it, its spec, the faults as (kind, rule, line), and the rows that are sound."""

    name: str
    write: Callable[[Path], None]
    spec: TaskSpec
    faults: list[tuple[str, str, int]] = field(default_factory=list)
    sound: int = 0
    quarantined: int = 0


LINE_FAULTS: list[tuple[str, str, Any]] = [
    ("not JSON", "bad_json", b'{"text": "It broke" "label": 1}'),
    ("truncated line", "bad_json", b'{"text": "It bro'),
    ("two objects on a line", "bad_json", b'{"text": "aa", "label": "bug_report"} {"text": "bb"}'),
    ("single quotes", "bad_json", b"{'text': 'aa'}"),
    ("trailing comma", "bad_json", b'{"text": "aa", "label": "bug_report",}'),
    ("raw control character", "bad_json", b'{"text": "a\x02a", "label": "bug_report"}'),
    ("nested without end", "bad_json", b"[" * 3000),
    ("invalid UTF-8", "invalid_utf8", b'{"text": "caf\xe9", "label": "bug_report"}'),
    ("CESU-8", "invalid_utf8", b'{"text": "tune \xed\xa0\xbc\xed\xbd\x95", "label": "bug_report"}'),
    ("lone surrogate", "lone_surrogate", b'{"text": "smile \\ud83d", "label": "bug_report"}'),
    ("duplicate key", "duplicate_key", b'{"text": "aa", "text": "bb", "label": "bug_report"}'),
    ("duplicate key in a chat", "duplicate_key", as_line(chat()).replace(b'"role"', b'"role": "x", "role"', 1)),
    ("NaN", "non_finite_number", b'{"text": "aa", "label": "bug_report", "score": NaN}'),
    ("Infinity", "non_finite_number", b'{"text": "aa", "label": "bug_report", "score": -Infinity}'),
    ("a list for a row", "not_an_object", b'["aa", "bug_report"]'),
    ("unknown keys", "unknown_shape", {"body": "aa", "queue": "bug_report"}),
    ("missing label", "missing_field", {"text": "aa"}),
    ("missing content", "missing_field", {"messages": [S, {"role": "user"}, A]}),
    ("empty text", "empty_field", {"text": "", "label": "bug_report"}),
    ("blank answer", "empty_field", chat(answer=" \n ")),
    ("null content", "empty_field", {"messages": [S, turn("user", None), A]}),
    ("a number for text", "wrong_type", {"text": 7, "label": "bug_report"}),
    ("a word for turns", "wrong_type", {"messages": "hello"}),
    ("unknown role", "unknown_role", {"messages": [S, turn("customer", "aa"), A]}),
    ("two users in a row", "role_order", {"messages": [S, U, U, A]}),
    ("a result without a call", "role_order", {"messages": [S, U, turn("tool", "x"), A]}),
    ("no answer", "no_assistant_last", {"messages": [S, U]}),
    ("unknown label", "unknown_label", {"text": "aa", "label": "bugs"}),
    ("label and answer differ", "label_mismatch", chat(label="P0_incident")),
    ("another system prompt", "wrong_system_prompt", chat(system="You are kind.")),
    ("no system prompt", "missing_system_prompt", chat(system=None)),
    ("special token", "template_residue", chat(user="It broke<|endoftext|>")),
    ("placeholder", "template_residue", chat(user="Dear {{name}}, it broke")),
    ("instruction mark", "template_residue", chat(user="[INST] It broke [/INST]")),
    ("noinput", "template_residue", chat(user="noinput")),
    ("control characters", "control_characters", chat(user="It\x00 broke")),
    ("too long", "too_long", chat(user="x" * 2000)),
    ("too short", "too_short", chat(user="x")),
    ("unknown origin", "unknown_origin", chat(origin="robot")),
    ("weight of a half", "bad_weight", {"messages": [S, U, {**A, "weight": 0.5}]}),
    ("nothing to learn", "nothing_to_learn", {"messages": [S, U, {**A, "weight": 0}]}),
    ("call without a name", "bad_tool_call", {"messages": [S, U, turn("assistant", None, tool_calls=[{}])]}),
    ("tool without a name", "bad_tool", chat(tools=[{"type": "function", "function": {}}])),
    ("picture", "unsupported_part", {"messages": [S, turn("user", [{"type": "image_url", "image_url": {}}]), A]}),
    ("refusal key", "unsupported_key", {"messages": [S, U, {**A, "refusal": "no"}]}),
    ("no point in time", "bad_time", chat(time="last week")),
    ("line without end", "line_too_long", b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}'),
]
WARNINGS: list[tuple[str, str, Any]] = [
    ("HTML entity", "html_entity", chat(user="It broke &amp; burnt")),
    ("lost characters", "replacement_character", chat(user="It br\ufffdke")),
    ("zero-width space", "invisible_characters", chat(user="It br\u200boke")),
    ("text turned round", "invisible_characters", chat(user="It \u202ebroke\u202c")),
    ("outer blanks", "stray_whitespace", {"text": " It broke ", "label": "bug_report"}),
    ("time without a zone", "time_without_zone", chat(time="2026-05-01T12:00:00")),
    ("no input", "no_input_marker", {"instruction": "It broke", "input": "<noinput>", "output": "bug_report"}),
    ("frame of a prompt", "prompt_boilerplate", chat(user="### Instruction:\nIt broke")),
]
THOUGHT = [{"type": "reasoning", "text": "Hm."}, {"type": "text", "text": "Yes"}]
OTHER = [{"name": "other"}]
FREE_WARNINGS: list[tuple[str, str, Any]] = [
    ("calculator's note", "calculator_annotation", {"question": "48/2?", "answer": "<<48/2=24>>24"}),
    ("reasoning", "reasoning_kept", {"messages": [S, U, turn("assistant", THOUGHT)]}),
    ("unknown tool", "unknown_tool", {"messages": [S, U, turn("assistant", None, tool_calls=[CALL])], "tools": OTHER}),
]


def _good(i: int) -> dict[str, Any]:
    return chat(f"The export button number {i} does nothing")


def _pair(i: int) -> dict[str, str]:
    return {"text": f"The export button number {i} does nothing", "label": "bug_report"}


def _bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def _lines(name: str, rows: list[Any], faults: list[tuple[str, str, int]], lost: int, spec: TaskSpec) -> File:
    return File(name, _bytes(as_lines(rows)), spec, faults, len(rows) - lost, lost)


def json_lines() -> File:
    """Every fault between two good rows."""
    rows: list[Any] = []
    faults = []
    for i, (kind, rule, row) in enumerate([*LINE_FAULTS, *WARNINGS]):
        rows += [_good(i), row]
        faults.append((kind, rule, len(rows)))
    return _lines("a.jsonl", rows, faults, len(LINE_FAULTS), make_spec(max_chars=1000))


def free_text() -> File:
    faults = [(kind, rule, i) for i, (kind, rule, _) in enumerate(FREE_WARNINGS, 1)]
    return _lines("free.jsonl", [row for *_, row in FREE_WARNINGS], faults, 1, make_spec(TEXT_OUTPUT))


def document() -> File:
    """Two wrong rows between sound ones, and a break in the last one."""
    twice = b'{"text": "It broke", "text": "It broke", "label": "bug_report"}'
    wrong = b'{"text": "It \xff broke", "label": "bug_report"}'
    lines = [b"[", as_line(_pair(0)) + b",", twice + b",", as_line(_pair(1)) + b",", wrong + b",", b'{"text": "It bro']
    faults = [
        ("key twice in a document", "duplicate_key", 3),
        ("bad byte in a document", "invalid_utf8", 5),
        ("document cut off", "bad_json", 6),
    ]
    return File("a.json", _bytes(b"\n".join(lines)), make_spec(), faults, 2, 3)


def keyed_document() -> File:
    row = as_line(_pair(1)).decode()
    text = f'{{"a": [\n{row}\n],\n"b": 5\n}}\nmore'
    faults = [("no list under a key", "not_rows", 4), ("text behind the document", "bad_json", 6)]
    return File("keyed.json", _bytes(text.encode()), make_spec(), faults, 1, 2)


def mapped() -> File:
    rows = [["It broke", "bug_report"], ["It broke"], [["It"], "bug_report"]]
    faults = [("expression gives nothing", "missing_field", 2), ("no expression here", "field_expression", 3)]
    return _lines("mapped.jsonl", rows, faults, 2, make_spec(fields={"text": "join('', [[0]])", "label": "[1]"}))


def table() -> File:
    lines = [b"text,label", *[f'"Ticket {i}, it broke",bug_report'.encode() for i in range(MANY)]]
    faults = []
    for kind, rule, line in (
        ("unclosed quote", "unclosed_quote", b'"It broke,bug_report'),
        ("torn quote", "unclosed_quote", b'"It" broke,bug_report'),
        ("too many fields", "wrong_field_count", b"It broke, again,bug_report"),
        ("too few fields", "wrong_field_count", b"It broke"),
        ("NUL byte", "control_characters", b"It\x00 broke,bug_report"),
        ("bytes of another encoding", "invalid_utf8", b"It \xff\xfe broke,bug_report"),
        ("empty cell", "empty_field", b",bug_report"),
        ("label of a table", "unknown_label", b"It broke,bugs"),
    ):
        lines += [line, b"It broke,P0_incident"]
        faults.append((kind, rule, len(lines) - 1))
    return File("a.csv", _bytes(b"\r\n".join(lines)), make_spec(), faults, MANY + len(faults), len(faults))


def other_encoding() -> File:
    data = "text;label\nCafé;bug_report\n".encode("cp1252") + b"b\x81d;bug_report\n"
    faults = [("bytes no cp1252 has", "invalid_encoding", 3)]
    return File("b.csv", _bytes(data), make_spec(csv={"encoding": "cp1252"}), faults, 1, 1)


def no_table() -> File:
    return File("c.csv", _bytes(b"one\ntwo\n"), make_spec(), [("no table", "csv_dialect", 0)])


def nothing_known() -> File:
    faults = [("no known container", "unknown_container", 0)]
    return File("d.txt", _bytes(b"prose without form\n" * 5), make_spec(), faults)


def no_rows() -> File:
    return File("e.json", _bytes(b"[ ]"), make_spec(), [("document without rows", "no_rows", 0)])


def with_mark() -> File:
    data = b"\xef\xbb\xbf" + as_line(_good(1)) + b"\n"
    return File("mark.jsonl", _bytes(data), make_spec(), [("byte order mark", "byte_order_mark", 1)], 1)


def cut_gzip() -> File:
    data = as_lines([_good(i) for i in range(5)])
    packed = gzip.compress(data[:-1] + b" " * 200_000 + b"\n", 0)
    return File("a.jsonl.gz", _bytes(packed[:-100]), make_spec(), [("gzip cut off", "bad_gzip", 5)], 4, 1)


def parquet() -> File:
    rows = [("It broke", "bug_report"), (None, "bug_report"), ("x", "bug_report"), ("It broke", "bugs")]
    faults = [
        ("null in Parquet", "empty_field", 2),
        ("short in Parquet", "too_short", 3),
        ("label in Parquet", "unknown_label", 4),
    ]
    write = _parquet_of([{"text": text, "label": label} for text, label in rows])
    return File("a.parquet", write, make_spec(), faults, 1, 3)


def no_parquet() -> File:
    faults = [("broken Parquet", "bad_parquet", 0)]
    return File("b.parquet", _bytes(b"PAR1" + b"\0" * 50 + b"PAR1"), make_spec(), faults)


PLANTED = [
    *(json_lines, free_text, document, keyed_document, mapped, table, other_encoding, no_table, nothing_known),
    *(no_rows, with_mark, cut_gzip, parquet, no_parquet),
]


# --- and nothing wrong at all -----------------------------------------------------------------------------------------

SAID = ["The button does nothing", "Café 日本 😀 is closed", 'He said "no", twice; then left', "two\nlines\tand a tab"]
ASKED = [turn("user", "Where is it?"), turn("assistant", None, tool_calls=[CALL])]
ANSWERED = [turn("tool", "sent", tool_call_id="c1"), turn("assistant", "It was sent.")]
CHAT_WITH_TOOLS = {"messages": [S, *ASKED, *ANSWERED], "tools": [TOOL]}
SHAPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "messages": lambda said: chat(said),
    "messages in parts": lambda said: {
        "messages": [turn(m["role"], [{"type": "text", "text": m["content"]}]) for m in chat(said)["messages"]]
    },
    "canonical": lambda said: chat(said, id="x", label="bug_report", group=None, origin="human", source={}, tags=[]),
    "text_label": lambda said: {"text": said, "label": "bug_report"},
    "prompt_completion": lambda said: {"prompt": said, "completion": "bug_report"},
    "question_answer": lambda said: {"question": said, "answer": "bug_report"},
    "instruction": lambda said: {"instruction": "Sort this ticket", "input": said, "output": "bug_report"},
    "sharegpt": lambda said: {
        "conversations": [
            {"from": name, "value": m["content"]}
            for name, m in zip(("system", "human", "gpt"), chat(said)["messages"], strict=True)
        ]
    },
    "preference": lambda said: {"prompt": said, "chosen": "bug_report", "rejected": "P0_incident"},
}


def _table_bytes(rows: list[dict[str, str]], delimiter: str, header: bool) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def _parquet_of(rows: list[dict[str, Any]]) -> Callable[[Path], None]:
    return lambda path: pq.write_table(pa.Table.from_pylist(rows), path)


def clean_files() -> list[File]:
    """Every container with every shape it can hold."""
    files = []
    for shape, make in SHAPES.items():
        rows = [make(said) for said in SAID]
        stem = shape.replace(" ", "_")
        lines = as_lines(rows)
        for name, data in (
            (f"{stem}.jsonl", lines),
            (f"{stem}.crlf.jsonl", lines.replace(b"}\n", b"}\r\n")),
            (f"{stem}.lines.json", lines),
            (f"{stem}.json", json.dumps(rows).encode()),
            (f"{stem}.pretty.json", json.dumps(rows, indent=2, ensure_ascii=False).encode()),
            (f"{stem}.keyed.txt", json.dumps({"one": rows[:2], "two": rows[2:]}, indent=1).encode()),
            (f"{stem}.jsonl.gz", gzip.compress(lines)),
            (f"{stem}.packed", gzip.compress(json.dumps(rows).encode())),
        ):
            files.append(File(name, _bytes(data), make_spec(), sound=4))
        if shape != "canonical":
            files.append(File(f"{stem}.parquet", _parquet_of(rows), make_spec(), sound=4))
        if all(isinstance(v, str) for v in rows[0].values()):
            for delimiter, suffix in ((",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "txt")):
                data = _table_bytes(rows, delimiter, True)
                files.append(File(f"{stem}.{ord(delimiter)}.{suffix}", _bytes(data), make_spec(), sound=4))
            files.append(
                File(f"{stem}.csv.gz", _bytes(gzip.compress(_table_bytes(rows, ",", True))), make_spec(), sound=4)
            )
    bare = make_spec(fields={"text": "c1", "label": "c2"})
    data = _table_bytes([SHAPES["text_label"](said) for said in SAID], ",", False)
    files.append(File("bare.csv", _bytes(data), bare, sound=4))
    files.append(File("tools.jsonl", _bytes(as_line(CHAT_WITH_TOOLS)), make_spec(TEXT_OUTPUT), sound=1))
    return files
