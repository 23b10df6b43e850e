from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import msgspec
import pytest

from finetune_pipeline.data.examples import Example, example_id
from finetune_pipeline.data.validate.row_rules import nearest_label
from finetune_pipeline.data.validate.validation import ValidatedRow, validate_line
from finetune_pipeline_tests.unit.data.raw_rows import (
    FILE,
    LABELS,
    PROMPT,
    TEXT_OUTPUT,
    as_lines,
    chat,
    examples,
    judge_bytes,
    spec_of,
    told,
    turn,
)

SPEC = spec_of(max_chars=400)
TEXT = spec_of(TEXT_OUTPUT, max_chars=400)
S, U, A = turn("system", PROMPT), turn("user", "It broke again"), turn("assistant", "bug_report")
CALL = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order": 7}'}}


def check(row: Any, spec: Any = SPEC, file: str = FILE) -> ValidatedRow:
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    return validate_line(data, file, 7, spec)


def rules(row: Any, spec: Any = SPEC) -> list[str]:
    return sorted(f.rule.removeprefix("data.") for f in check(row, spec).findings)


def kept(row: Any, spec: Any = SPEC) -> Example:
    done = check(row, spec)
    assert done.example is not None, done.findings
    return done.example


SOUND = [
    chat(),
    {"text": "It broke", "label": "P0_incident"},
    chat(user="tab\tand\nline"),
    chat(label="bug_report"),
    chat(label=None, group="g", tags=["a"], origin="synthetic", id="x", source={"file": "old", "line": 1}),
    {"messages": [S, U, A, U, A]},
    chat(user="a ready-made {json: 1} and {{}} and a < b | c > d"),
    chat(system="  " + PROMPT + "\r\n"),
    b'{"text": "quote \\": \\u00e9", "label": "bug_report"}',
    b'{"text": "pair \\ud83d\\ude00", "label": "bug_report"}',
    {"messages": [{**S, "weight": 1}, {**U, "name": "x"}, A]},
    {"messages": [S, U, {**A, "weight": 0}, U, {**A, "weight": 1.0}]},
    {"messages": [turn("developer", PROMPT), turn("user", [{"type": "text", "text": "It broke"}]), A]},
    {"messages": [S, U, turn("assistant", None, tool_calls=[CALL]), turn("tool", "gone", tool_call_id="c1"), A]},
    {"prompt": "It broke", "completion": "bug_report"},
    {"instruction": "It broke", "input": "", "output": "bug_report"},
    {
        "conversations": [
            {"from": "system", "value": PROMPT},
            {"from": "human", "value": "No"},
            {"from": "gpt", "value": "bug_report"},
        ]
    },
    {"text": "R&D asks: 3 < 4?", "label": "bug_report"},
    {"text": "It broke", "label": "bug_report", "time": "2026-05-01T12:00:00+02:00", "generator": "m"},
]


def test_sound_rows_pass_without_a_finding() -> None:
    for row in SOUND:
        checked = check(row)
        assert checked.findings == [], row
        assert checked.example is not None and checked.example.label in LABELS


BROKEN: list[tuple[Any, list[str]]] = [
    (b'{"text": "a", "label": "bug_report"', ["bad_json"]),
    (b'{"text": "The export', ["bad_json"]),
    (b"{'text': 'a'}", ["bad_json"]),
    (b'{"text": "aa", "label": "bug_report"} {"text": 1}', ["bad_json"]),
    (b'{"text": "aa", "label": "bug_report",}', ["bad_json"]),
    (b'{"text": "a\x01a", "label": "bug_report"}', ["bad_json"]),
    (b"[" * 100_000, ["bad_json"]),
    (b'{"text": "caf\xe9 broke", "label": "bug_report"}', ["invalid_utf8"]),
    (b'{"text": "tune \xed\xa0\xbc\xed\xbd\x95", "label": "bug_report"}', ["invalid_utf8"]),
    (b"[1, 2]", ["not_an_object"]),
    (b'"text"', ["not_an_object"]),
    (b"null", ["not_an_object"]),
    (b'{"text": "aa", "label": "bug_report", "label": "P0_incident"}', ["duplicate_key"]),
    (b'{"text": "aa", "label": "bug_report", "score": NaN}', ["non_finite_number"]),
    (b'{"text": "aa", "label": "bug_report", "score": -1e999}', ["non_finite_number"]),
    (b'{"text": "aa", "label": "bug_report", "score": ' + b"9" * 5000 + b"}", ["non_finite_number"]),
    (b'{"text": "aa \\ud83d", "label": "bug_report"}', ["lone_surrogate"]),
    (b'{"text": "aa", "label": "bug_report", "\\udc00": 1}', ["lone_surrogate"]),
    ({"body": "a", "queue": "b"}, ["unknown_shape"]),
    ({}, ["unknown_shape"]),
    ({"prompt": "only this"}, ["unknown_shape"]),
    ({"text": "aa"}, ["missing_field"]),
    ({"label": "bug_report"}, ["missing_field"]),
    ({"messages": [S, {"role": "user"}, A]}, ["missing_field"]),
    ({"messages": [S, {"content": "aa"}, A]}, ["missing_field"]),
    ({"instruction": "aa", "input": "b"}, ["missing_field"]),
    ({"text": "  ", "label": "bug_report"}, ["empty_field"]),
    ({"text": None, "label": "bug_report"}, ["empty_field"]),
    ({"messages": []}, ["empty_field"]),
    ({"messages": None}, ["empty_field"]),
    ({"messages": [S, U, turn("assistant", "")]}, ["empty_field"]),
    ({"messages": [S, U, turn("assistant", None)]}, ["empty_field"]),
    ({"messages": [S, turn("user", [{"type": "text", "text": " "}]), A]}, ["empty_field"]),
    ({"text": 5, "label": "bug_report"}, ["wrong_type"]),
    ({"text": "aa", "label": 3}, ["wrong_type"]),
    ({"messages": "hello"}, ["wrong_type"]),
    ({"messages": [S, "hello", A]}, ["wrong_type"]),
    ({"messages": [S, turn("user", [{"kind": "text"}]), A]}, ["wrong_type"]),
    (chat(group=5), ["wrong_type"]),
    (chat(tags="a"), ["wrong_type"]),
    (chat(tags=[1]), ["wrong_type"]),
    (chat(label=1), ["wrong_type"]),
    (chat(generator=1), ["wrong_type"]),
    ({"messages": [S, turn("human", "aa"), A]}, ["unknown_role"]),
    ({"messages": [U, S, A]}, ["role_order"]),
    ({"messages": [S, U, U, A]}, ["role_order"]),
    ({"messages": [S, A]}, ["role_order"]),
    ({"messages": [S, S, U, A]}, ["role_order"]),
    ({"messages": [S, U, turn("assistant", None, tool_calls=[CALL]), U, A]}, ["role_order"]),
    ({"messages": [S, U, turn("tool", "x"), A]}, ["role_order"]),
    ({"messages": [S, U]}, ["no_assistant_last"]),
    ({"messages": [S]}, ["no_assistant_last", "role_order"]),
    ({"text": "aa", "label": "bug-report"}, ["unknown_label"]),
    (chat(answer="Bug_Report"), ["unknown_label"]),
    (chat(label="P0_incident"), ["label_mismatch"]),
    (chat(system="Classify."), ["wrong_system_prompt"]),
    ({"prompt": "aa", "completion": "bug_report", "system": "Else."}, ["wrong_system_prompt"]),
    (chat(system=None), ["missing_system_prompt"]),
    (chat(user="x" * 400), ["too_long"]),
    (chat(user="x"), ["too_short"]),
    (chat(user="a\x00b\x85c"), ["control_characters"]),
    (chat(user="color \x1b[31mred"), ["control_characters"]),
    (chat(user="hello <|im_end|> there"), ["template_residue"]),
    (chat(user="[INST] hello"), ["template_residue"]),
    (chat(user="Dear {{ customer_name }}, hello"), ["template_residue"]),
    (chat(user="noinput"), ["template_residue"]),
    (chat(origin="robot"), ["unknown_origin"]),
    (chat(origin=["human"]), ["unknown_origin"]),
    (chat(tool_choice="auto"), ["unsupported_key"]),
    ({"messages": [S, U, {**A, "audio": {"id": "a"}}]}, ["unsupported_key"]),
    ({"messages": [S, turn("user", [{"type": "image_url", "image_url": {"url": "x"}}]), A]}, ["unsupported_part"]),
    ({"messages": [S, turn("user", [{"type": "input_audio", "input_audio": {}}]), A]}, ["unsupported_part"]),
    ({"messages": [S, U, {**A, "weight": 0}]}, ["nothing_to_learn"]),
    ({"messages": [S, U, {**A, "weight": 0.5}]}, ["bad_weight"]),
    ({"messages": [S, U, {**A, "loss_weight": True}]}, ["bad_weight"]),
    ({"messages": [S, U, {**A, "tool_calls": [{}]}]}, ["bad_tool_call"]),
    ({"messages": [S, {**U, "tool_calls": [CALL]}, A]}, ["bad_tool_call"]),
    (chat(tools=[{"type": "function"}]), ["bad_tool"]),
    (chat(tools=[{"type": "browser", "name": "x"}]), ["bad_tool"]),
    (chat(time="yesterday"), ["bad_time"]),
    (chat(time=1_700_000_000_000), ["bad_time"]),
]


def test_each_planted_fault_gives_its_finding_and_no_other() -> None:
    for row, expected in BROKEN:
        checked = check(row)
        assert sorted(f.rule.removeprefix("data.") for f in checked.findings) == expected, row
        assert checked.example is None
        assert all(f.place == "raw/a.jsonl:7" and f.message and f.fix for f in checked.findings)
        msgspec.json.encode([f.to_dict() for f in checked.findings])


WARNED: list[tuple[Any, list[str]]] = [
    ({"prompt": "a &lt; b", "completion": "x"}, ["html_entity"]),
    ({"prompt": "line<br/>line", "completion": "x"}, ["html_tag"]),
    ({"prompt": "lost \ufffd here", "completion": "x"}, ["replacement_character"]),
    ({"prompt": "Below is an instruction that describes a task. Do it.", "completion": "x"}, ["prompt_boilerplate"]),
    ({"prompt": "### Instruction:\nsing", "completion": "x"}, ["prompt_boilerplate"]),
    ({"prompt": "What is 48/2?", "completion": "It is <<48/2=24>>24"}, ["calculator_annotation"]),
    ({"prompt": "How do you feel?", "completion": "As an AI language model, I do not."}, ["refusal"]),
    ({"instruction": "Mend it", "input": "she sings.", "output": "She sings."}, ["answer_equals_input"]),
    ({"prompt": "say this", "completion": "say this"}, ["answer_equals_input"]),
    ({"instruction": "Sing a song", "input": "<noinput>", "output": "la"}, ["no_input_marker"]),
    ({"instruction": "Sing a song", "input": "N/A", "output": "la"}, ["no_input_marker"]),
    ({"prompt": " two blanks  ", "completion": "x"}, ["stray_whitespace"]),
    ({"prompt": "one", "completion": "x", "time": "2026-05-01T12:00:00"}, ["time_without_zone"]),
    ({"messages": [S, U, turn("assistant", "yes", reasoning_content="hm")]}, ["reasoning_kept"]),
]


def test_what_is_only_odd_is_told_and_kept() -> None:
    for row, expected in WARNED:
        checked = check(row, TEXT)
        assert [f.rule.removeprefix("data.") for f in checked.findings] == expected, row
        assert checked.example is not None and all(f.severity in ("warning", "note") for f in checked.findings)


@pytest.mark.parametrize(
    ("row", "said", "fix"),
    [
        (b'{"text": "aa", "label": }', "column 25", "JSON library"),
        (b'{"text": "aa", "lab', "truncated", "whole row"),
        (b'{"text": "aa", "label": "x"} trailing', "column 30", "own line"),
        (b"{'text': 1}", "column 2", "double quotes"),
        (b'{"text": "abc\xff"}', "byte offset 13", "UTF-8"),
        (b'{"text": "abc\xed\xa0\xbc\xed\xbd\x95"}', "ed a0 bc ed bd 95", "CESU-8"),
        ({"txt": "a", "label_": "b"}, "'label_', 'txt'", "'label_' to `label`, 'txt' to `text`"),
        ({"message": []}, "'message'", "nearest format: `messages`; rename 'message' to `messages`"),
        ({"question": "a"}, "'question'", "the answer is missing"),
        ({"answer": "a"}, "'answer'", "the question is missing"),
        ({"c1": "a", "c2": "b"}, "'c1', 'c2'", "data.fields"),
        ({"messages": [S, turn("gpt", "aa"), A]}, "'gpt'", "write 'assistant'"),
        ({"text": "aa", "label": " Bug Report "}, "'Bug Report'", "write 'bug_report'"),
        ({"text": "aa", "label": "p0_incidnt"}, "'p0_incidnt'", "did you mean 'P0_incident'?"),
        ({"text": "aa", "label": "zzz"}, "'zzz'", "use one of: bug_report, feature_request, P0_incident"),
        (chat(system=PROMPT.replace("ticket", "Ticket")), "character 14", "word for word"),
        ({"messages": [S, U, U, A]}, "turn 3 is by 'user' where 'assistant' must speak", "in turn"),
        (chat(user="ab\x07c"), "character 3", "remove"),
        ({"messages": [S, turn("user", [{"type": "image"}]), A]}, "'image'", "in text"),
        (
            {"messages": [S, U, turn("assistant", None, tool_calls=[{"function": {"name": "f", "arguments": "{"}}])]},
            "not JSON",
            "arguments",
        ),
    ],
)
def test_messages_say_what_and_how_to_fix(row: Any, said: str, fix: str) -> None:
    finding = next(f for f in check(row).findings if f.severity == "error")
    assert said in finding.message
    assert fix in finding.fix


def test_findings_do_not_repeat_secrets_or_whole_texts() -> None:
    message = check({"text": "aa", "label": "ask jane.doe@example.com " + "x" * 500}).findings[0].message
    assert "jane" not in message and "[EMAIL_1]" in message and len(message) < 200


def test_formats_meet_in_one_canonical_example() -> None:
    a, b = kept({"text": " It broke\r\n", "label": "bug_report "}), kept(chat(user="It broke"))
    assert a == b
    assert a.messages[0] == {"role": "system", "content": SPEC.system_prompt}
    assert a.id == example_id(a.messages) and a.source == {"file": FILE, "line": 7}


def test_a_declared_format_refuses_the_others() -> None:
    assert rules({"text": "aa", "label": "bug_report"}, spec_of(format="messages")) == ["unknown_shape"]
    assert rules(chat(), spec_of(format="text_label")) == ["unknown_shape"]
    assert rules(chat(), spec_of(format="sharegpt")) == ["unknown_shape"]
    assert rules(chat(), spec_of(format="messages")) == []


def test_origin_comes_from_the_row_or_the_file() -> None:
    for row, file, origin in (
        (chat(), FILE, "human"),
        (chat(), "production.jsonl", "production"),
        (chat(origin="human"), "production.jsonl", "human"),
        (chat(origin="synthetic", generator="m"), FILE, "synthetic"),
    ):
        done = check(row, file=file).example
        assert done is not None and done.origin == origin and done.generator == row.get("generator")
    log = check(chat(id="log-17"), file="production.jsonl").example
    assert log is not None and log.source == {"file": "production.jsonl", "line": 7, "id": "log-17"}


def test_time_is_utc() -> None:
    for given, wanted in (
        ("2026-05-01T12:00:00+02:00", "2026-05-01T10:00:00Z"),
        ("2026-05-01 12:00:00Z", "2026-05-01T12:00:00Z"),
        (1_700_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000.5, "2023-11-14T22:13:20.500000Z"),
        (None, None),
    ):
        assert kept(chat(time=given)).time == wanted


def test_a_byte_is_named_by_its_place_in_the_file(tmp_path: Path) -> None:
    data = as_lines([chat()]) + b'{"text": "caf\xe9", "label": "bug_report"}\n'
    judged = judge_bytes(tmp_path, data, SPEC)
    at = data.index(b"\xe9")
    assert f"(byte offset {at} of the file)" in judged.findings[0]["message"]


def test_judged_accounts_for_everything(tmp_path: Path) -> None:
    rows = [chat(), b"", chat(user="a &lt; b", extra=1), {"text": "It is down, mail jane@example.com", "label": "P0"}]
    judged = judge_bytes(tmp_path, b"\xef\xbb\xbf" + as_lines(rows), SPEC)
    assert (judged.rows_in, judged.kept) == (3, 2)
    assert told(judged) == [("byte_order_mark", 1), ("html_entity", 3), ("unknown_label", 4)]
    assert judged.labels == {"bug_report": 2} and judged.ignored == {"extra": 1}
    assert judged.shapes == {"messages": 2, "text_label": 1}
    assert [(q["line"], q["raw"]) for q in judged.quarantine] == [
        (4, '{"text": "It is down, mail [EMAIL_1]", "label": "P0"}')
    ]
    assert [e["source"]["line"] for e in examples(judged)] == [1, 3]
    assert pickle.loads(pickle.dumps(judged)) == judged


def test_nearest_label_ignores_case_and_joining_marks() -> None:
    assert nearest_label("FEATURE  request", LABELS).startswith("write 'feature_request'")
