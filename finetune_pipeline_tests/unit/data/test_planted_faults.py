"""A corpus with planted faults: every file a container, every fault known by its rule and its line; and a clean one.

Every planted fault is found by its rule at its line, nothing else is, and no row is lost."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.raw_rows import A, S, U, Validated, table, turn, validate_file
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, as_line, as_lines, chat, make_spec

CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}


@dataclass
class File:
    """A file of the corpus: its content (rows are Parquet), its spec, the faults as (rule, line), and how many rows are
    sound or quarantined."""

    name: str
    content: bytes | list[dict[str, Any]]
    faults: list[tuple[str, int]] = field(default_factory=list)
    sound: int = 0
    quarantined: int = 0
    spec: TaskSpec = field(default_factory=make_spec)

    def validated(self, folder: Path) -> Validated:
        path = folder / self.name
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            pq.write_table(pa.Table.from_pylist(self.content), path)
        result = validate_file(path, self.spec, size=1 << 20)
        assert (result.kept, len(result.quarantine)) == (self.sound, self.quarantined), self.name
        assert result.rows_in == self.sound + self.quarantined
        return result


LINE_FAULTS: list[tuple[str, str, Any]] = [
    ("not JSON", "bad_json", b'{"text": "It broke" "label": 1}'),
    ("truncated line", "bad_json", b'{"text": "It bro'),
    ("two objects on a line", "bad_json", b'{"text": "aa", "label": "bug_report"} {"text": "bb"}'),
    ("single quotes", "bad_json", b"{'text': 'aa'}"),
    ("trailing comma", "bad_json", b'{"text": "aa", "label": "bug_report",}'),
    ("raw control character", "bad_json", b'{"text": "a\x02a", "label": "bug_report"}'),
    ("nested without end", "bad_json", b"[" * 3000),
    ("invalid UTF-8", "invalid_utf8", b'{"text": "caf\xe9", "label": "bug_report"}'),
    ("lone surrogate", "lone_surrogate", b'{"text": "smile \\ud83d", "label": "bug_report"}'),
    ("lone surrogate in a key", "lone_surrogate", b'{"text": "aa", "label": "bug_report", "x\\udc00": 1}'),
    ("duplicate key", "duplicate_key", b'{"text": "aa", "text": "bb", "label": "bug_report"}'),
    ("duplicate key, hidden", "duplicate_key", b'{"text": "aa", "text": "b\\u0022: b", "label": "bug_report"}'),
    ("duplicate key in a chat", "duplicate_key", as_line(chat()).replace(b'"role"', b'"role": "x", "role"', 1)),
    ("NaN", "non_finite_number", b'{"text": "aa", "label": "bug_report", "score": NaN}'),
    ("Infinity", "non_finite_number", b'{"text": "aa", "label": "bug_report", "score": -Infinity}'),
    ("a list for a row", "not_an_object", b'["aa", "bug_report"]'),
    ("unknown keys", "unknown_shape", {"body": "aa", "queue": "bug_report"}),
    ("missing label", "missing_field", {"text": "aa"}),
    ("missing content", "missing_field", {"messages": [S, {"role": "user"}, A]}),
    ("empty text", "empty_field", {"text": "", "label": "bug_report"}),
    ("spreadsheet's error", "empty_field", {"text": "It broke", "label": "#N/A"}),
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
    ("UTF-8 read as cp1252", "mojibake", chat(user="GrÃ¼ÃŸe, it broke")),
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


GOOD = chat("The export button does nothing, number 1")
PAIR = as_line({"text": "The export button does nothing", "label": "bug_report"})


def lines_with_faults() -> File:
    """Every fault between two good rows."""
    planted = [*LINE_FAULTS, *WARNINGS]
    rows = [row for _, _, bad in planted for row in (GOOD, bad)]
    faults = [(rule, 2 * i) for i, (_, rule, _) in enumerate(planted, 1)]
    lost = len(LINE_FAULTS)
    return File("a.jsonl", as_lines(rows), faults, len(rows) - lost, lost, make_spec(max_chars=1000))


def table_with_faults() -> File:
    planted = [
        ("unclosed_quote", b'"It broke,bug_report'),
        ("unclosed_quote", b'"It" broke,bug_report'),
        ("wrong_field_count", b"It broke, again,bug_report"),
        ("wrong_field_count", b"It broke"),
        ("control_characters", b"It\x00 broke,bug_report"),
        ("invalid_utf8", b"It \xff\xfe broke,bug_report"),
        ("empty_field", b",bug_report"),
        ("unknown_label", b"It broke,bugs"),
    ]
    head = [b"text,label", *[f'"Ticket {i}, it broke",bug_report'.encode() for i in range(40)]]
    rows = [line for _, bad in planted for line in (bad, b"It broke,P0_incident")]
    faults = [(rule, 42 + 2 * i) for i, (rule, _) in enumerate(planted)]
    return File("a.csv", b"\r\n".join(head + rows), faults, 48, 8)


FREE_FAULTS = [(rule, i) for i, (_, rule, _) in enumerate(FREE_WARNINGS, 1)]
FREE = File("free.jsonl", as_lines([row for *_, row in FREE_WARNINGS]), FREE_FAULTS, 2, 1, make_spec(TEXT_OUTPUT))
TWICE = b'{"text": "aa", "text": "aa", "label": "bug_report"}'
BAD_BYTE = b'{"text": "It \xff broke", "label": "bug_report"}'
DOCUMENT = b"[\n" + b",\n".join([PAIR, TWICE, PAIR, BAD_BYTE, b'{"text": "It bro'])
KEYED = b'{"a": [\n%s\n],\n"b": 5\n}\nmore' % PAIR
MAPPED = as_lines([["It broke", "bug_report"], ["It broke"], [["It"], "bug_report"]])
BY_PLACE = make_spec(fields={"text": "join('', [[0]])", "label": "[1]"})
NUMBERED = make_spec({"kind": "labels", "labels": ["5", "null"]}, fields={"text": "text", "label": "to_string(n)"})
WESTERN = "text;label\nCafé;bug_report\n".encode("cp1252") + b"b\x81d;bug_report\n"  # bytes that no cp1252 has
CUT = gzip.compress(as_lines([GOOD] * 5)[:-1] + b" " * 200_000 + b"\n", 0)[:-100]
CELLS = [("It broke", "bug_report"), (None, "bug_report"), ("x", "bug_report"), ("It broke", "bugs")]
COLUMNS = [{"text": text, "label": label} for text, label in CELLS]
PLANTED = [
    lines_with_faults(),
    table_with_faults(),
    FREE,
    File("document.json", DOCUMENT, [("duplicate_key", 3), ("invalid_utf8", 5), ("bad_json", 6)], 2, 3),
    File("keyed.json", KEYED, [("not_rows", 4), ("bad_json", 6)], 1, 2),
    File("null.jsonl", as_lines([{"text": "aa", "n": 5}, {"text": "aa"}]), [("missing_field", 2)], 1, 1, NUMBERED),
    File("mapped.jsonl", MAPPED, [("missing_field", 2), ("field_expression", 3)], 1, 2, BY_PLACE),
    File("encoding.csv", WESTERN, [("invalid_encoding", 3)], 1, 1, make_spec(csv={"encoding": "cp1252"})),
    File("no_table.csv", b"one\ntwo\n", [("csv_dialect", 0)]),
    File("prose.txt", b"prose without form\n" * 5, [("unknown_container", 0)]),
    File("empty.json", b"[ ]", [("no_rows", 0)]),
    File("mark.jsonl", b"\xef\xbb\xbf" + as_line(GOOD) + b"\n", [("byte_order_mark", 1)], 1),
    File("cut.jsonl.gz", CUT, [("bad_gzip", 5)], 4, 1),
    File("columns.parquet", COLUMNS, [("empty_field", 2), ("too_short", 3), ("unknown_label", 4)], 1, 3),
    File("broken.parquet", b"PAR1" + b"\0" * 50 + b"PAR1", [("bad_parquet", 0)]),
]


@pytest.mark.parametrize("file", PLANTED, ids=lambda file: file.name)
def test_planted_faults_are_found_where_they_are(tmp_path: Path, file: File) -> None:
    result = file.validated(tmp_path)
    assert result.by_line == sorted(file.faults)
    errors = {f["place"] for f in result.findings if f["severity"] == "error" and ":" in f["place"]}
    assert errors == {f"{q['file']}:{q['line']}" for q in result.quarantine}
    assert all(f["message"] and f["fix"] for f in result.findings)


SAID = ["The button does nothing", "Café 日本 😀 is closed", 'He said "no", twice; then left', "two\nlines\tand a tab"]
ASKED = [turn("user", "Where is it?"), turn("assistant", None, tool_calls=[CALL])]
ANSWERED = [turn("tool", "sent", tool_call_id="c1"), turn("assistant", "It was sent.")]
CHAT_WITH_TOOLS = {"messages": [S, *ASKED, *ANSWERED], "tools": [TOOL]}
SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
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
        "conversations": [{"from": SPEAKERS[m["role"]], "value": m["content"]} for m in chat(said)["messages"]]
    },
    "preference": lambda said: {"prompt": said, "chosen": "bug_report", "rejected": "P0_incident"},
}


def clean_files() -> Iterator[File]:
    """Every container with every shape it can hold."""
    for shape, make in SHAPES.items():
        rows = [make(said) for said in SAID]
        lines = as_lines(rows)
        for name, data in (
            ("a.jsonl", lines),
            ("crlf.jsonl", lines.replace(b"}\n", b"}\r\n")),
            ("lines.json", lines),
            ("a.json", json.dumps(rows).encode()),
            ("pretty.json", json.dumps(rows, indent=2, ensure_ascii=False).encode()),
            ("keyed.txt", json.dumps({"one": rows[:2], "two": rows[2:]}, indent=1).encode()),
            ("a.jsonl.gz", gzip.compress(lines)),
            ("packed", gzip.compress(json.dumps(rows).encode())),
        ):
            yield File(f"{shape}.{name}", data, sound=4)
        if shape != "canonical":
            yield File(f"{shape}.parquet", rows, sound=4)
        if all(isinstance(v, str) for v in rows[0].values()):
            cells = [list(rows[0]), *(list(row.values()) for row in rows)]
            for delimiter, suffix in ((",", "csv"), (";", "csv"), ("\t", "tsv"), ("|", "txt")):
                yield File(f"{shape}.{suffix}", table(cells, delimiter, "\r\n").encode(), sound=4)
            yield File(f"{shape}.csv.gz", gzip.compress(table(cells).encode()), sound=4)
    bare = table([[said, "bug_report"] for said in SAID]).encode()
    yield File("bare.csv", bare, sound=4, spec=make_spec(fields={"text": "c1", "label": "c2"}))
    yield File("tools.jsonl", as_line(CHAT_WITH_TOOLS), sound=1, spec=make_spec(TEXT_OUTPUT))


def test_a_clean_file_has_no_finding(tmp_path: Path) -> None:
    for file in clean_files():
        assert file.validated(tmp_path).findings == [], file.name
