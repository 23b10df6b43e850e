from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_pipeline.data.examples import example_id, read_examples
from finetune_pipeline.data.judging import Checked, check_line
from finetune_pipeline.data.row_rules import nearest_label
from finetune_pipeline.data.validation import validate
from finetune_pipeline_tests.unit.data.rows import LABELS, PROMPT, TEXT_OUTPUT, chat, make_spec, read_lines, write_raw

SPEC = make_spec(max_chars=400)
U, A, S = (
    {"role": r, "content": c} for r, c in (("user", "It broke again"), ("assistant", "bug_report"), ("system", PROMPT))
)


def check(row: Any, spec: Any = SPEC, file: str = "raw/a.jsonl") -> Checked:
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    return check_line(data, file, 7, spec)


def rules(row: Any, spec: Any = SPEC) -> list[str]:
    return sorted(f.rule.removeprefix("data.") for f in check(row, spec).findings)


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
]


@pytest.mark.parametrize("row", SOUND, ids=range(len(SOUND)))
def test_sound_rows_pass_without_a_finding(row: Any) -> None:
    checked = check(row)
    assert checked.findings == []
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
    (b"[1, 2]", ["not_an_object"]),
    (b'"text"', ["not_an_object"]),
    (b"null", ["not_an_object"]),
    (b'{"text": "aa", "label": "bug_report", "label": "P0_incident"}', ["duplicate_key"]),
    (b'{"text": "aa", "label": "bug_report", "score": NaN}', ["non_finite_number"]),
    (b'{"text": "aa", "label": "bug_report", "score": -1e999}', ["non_finite_number"]),
    (b'{"text": "aa", "label": "bug_report", "score": ' + b"9" * 5000 + b"}", ["non_finite_number"]),
    (b'{"text": "aa \\ud83d", "label": "bug_report"}', ["lone_surrogate"]),
    (b'{"text": "aa", "label": "bug_report", "\\udc00": 1}', ["lone_surrogate"]),
    ({}, ["unknown_shape"]),
    ({"text": "aa"}, ["missing_field"]),
    ({"label": "bug_report"}, ["missing_field"]),
    ({"messages": [S, {"role": "user"}, A]}, ["missing_field"]),
    ({"messages": [S, {"content": "aa"}, A]}, ["missing_field"]),
    ({"text": "  ", "label": "bug_report"}, ["empty_field"]),
    ({"text": None, "label": "bug_report"}, ["empty_field"]),
    ({"messages": []}, ["empty_field"]),
    ({"messages": None}, ["empty_field"]),
    ({"messages": [S, U, {"role": "assistant", "content": ""}]}, ["empty_field"]),
    ({"text": 5, "label": "bug_report"}, ["wrong_type"]),
    ({"text": "aa", "label": 3}, ["wrong_type"]),
    ({"messages": "hello"}, ["wrong_type"]),
    ({"messages": [S, "hello", A]}, ["wrong_type"]),
    (chat(group=5), ["wrong_type"]),
    (chat(tags="a"), ["wrong_type"]),
    (chat(tags=[1]), ["wrong_type"]),
    (chat(label=1), ["wrong_type"]),
    ({"messages": [U, S, A]}, ["role_order"]),
    ({"messages": [S, U, U, A]}, ["role_order"]),
    ({"messages": [S, A]}, ["role_order"]),
    ({"messages": [S, S, U, A]}, ["role_order"]),
    ({"messages": [S, U]}, ["no_assistant_last"]),
    ({"messages": [S]}, ["no_assistant_last", "role_order"]),
    ({"text": "aa", "label": "bug-report"}, ["unknown_label"]),
    (chat(answer="Bug_Report"), ["unknown_label"]),
    (chat(label="P0_incident"), ["label_mismatch"]),
    (chat(system="Classify."), ["wrong_system_prompt"]),
    (chat(system=None), ["missing_system_prompt"]),
    (chat(user="x" * 400), ["too_long"]),
    (chat(user="x"), ["too_short"]),
    (chat(user="a\x00b\x85c"), ["control_characters"]),
    (chat(user="color \x1b[31mred"), ["control_characters"]),
    (chat(user="hello <|im_end|> there"), ["template_residue"]),
    (chat(user="[INST] hello"), ["template_residue"]),
    (chat(user="Dear {{ customer_name }}, hello"), ["template_residue"]),
    (chat(origin="robot"), ["unknown_origin"]),
    (chat(origin=["human"]), ["unknown_origin"]),
]


@pytest.mark.parametrize(("row", "expected"), BROKEN, ids=[f"{i}-{'-'.join(e)}" for i, (_, e) in enumerate(BROKEN)])
def test_each_planted_fault_gives_its_finding_and_no_other(row: Any, expected: list[str]) -> None:
    checked = check(row)
    assert sorted(f.rule.removeprefix("data.") for f in checked.findings) == expected
    assert checked.example is None
    assert all(f.place == "raw/a.jsonl:7" and f.message and f.fix for f in checked.findings)
    json.dumps([f.to_dict() for f in checked.findings]).encode("utf-8")


def test_every_rule_of_the_list_has_a_planted_fault() -> None:
    assert {r for _, expected in BROKEN for r in expected} >= {
        "bad_json",
        "invalid_utf8",
        "not_an_object",
        "unknown_shape",
        "missing_field",
        "empty_field",
        "wrong_type",
        "role_order",
        "no_assistant_last",
        "unknown_label",
        "wrong_system_prompt",
        "missing_system_prompt",
        "too_long",
        "too_short",
        "control_characters",
        "template_residue",
        "duplicate_key",
        "non_finite_number",
        "lone_surrogate",
        "unknown_origin",
        "label_mismatch",
    }


def test_warnings_keep_the_row() -> None:
    for text, rule in (("fish &amp; chips &#39;", "html_entity"), ("lost \ufffd here", "replacement_character")):
        checked = check(chat(user=text))
        assert [(f.rule, f.severity) for f in checked.findings] == [(f"data.{rule}", "warning")]
        assert checked.example is not None and checked.example.user_text == text


def test_all_problems_of_a_row_come_at_once() -> None:
    row = {
        "messages": [
            {"role": "system", "content": "no"},
            {"role": "user", "content": "<|x|> \x02 " + "y" * 400},
            {"role": "assistant", "content": "bug"},
        ],
        "origin": "x",
        "tags": 3,
    }
    assert rules(row) == [
        "control_characters",
        "template_residue",
        "too_long",
        "unknown_label",
        "unknown_origin",
        "wrong_system_prompt",
        "wrong_type",
    ]
    assert rules({"text": "", "label": "bug"}) == ["empty_field", "unknown_label"]
    assert rules(b'{"text": "\xff", "label": "bug_report", "label": NaN}') == [
        "duplicate_key",
        "invalid_utf8",
        "non_finite_number",
        "too_short",
        "wrong_type",
    ]


@pytest.mark.parametrize(
    ("row", "said", "fix"),
    [
        (b'{"text": "aa", "label": }', "column 25", "JSON library"),
        (b'{"text": "aa", "lab', "truncated", "whole row"),
        (b'{"text": "aa"', "truncated", "whole row"),
        (b'{"text": "aa", "label": "x"} trailing', "column 30", "own line"),
        (b"{'text': 1}", "column 2", "double quotes"),
        (b'{"text": "abc\xff"}', "byte offset 13", "UTF-8"),
        ({"txt": "a", "label_": "b"}, "'label_', 'txt'", "'label_' to `label`, 'txt' to `text`"),
        ({"message": []}, "'message'", "nearest format: `messages`; rename 'message' to `messages`"),
        ({"text": "aa", "label": " Bug Report "}, "'Bug Report'", "write 'bug_report'"),
        ({"text": "aa", "label": "p0_incidnt"}, "'p0_incidnt'", "did you mean 'P0_incident'?"),
        ({"text": "aa", "label": "zzz"}, "'zzz'", "use one of: bug_report, feature_request, P0_incident"),
        (chat(system=PROMPT.replace("ticket", "Ticket")), "character 14", "word for word"),
        ({"messages": [S, U, U, A]}, "turn 3 is by 'user' where 'assistant' must speak", "in turn"),
        (chat(user="ab\x07c"), "character 3", "remove"),
    ],
)
def test_messages_say_what_and_how_to_fix(row: Any, said: str, fix: str) -> None:
    finding = next(f for f in check(row).findings if f.severity == "error")
    assert said in finding.message
    assert fix in finding.fix


def test_findings_do_not_repeat_secrets_or_whole_texts() -> None:
    told = check({"text": "aa", "label": "ask jane.doe@example.com " + "x" * 500}).findings[0].message
    assert "jane" not in told and "[EMAIL_1]" in told and len(told) < 200


def test_formats_meet_in_one_canonical_example() -> None:
    a, b = check({"text": " It broke\r\n", "label": "bug_report "}).example, check(chat(user="It broke")).example
    assert a is not None and b is not None
    assert a == b
    assert a.messages[0] == {"role": "system", "content": SPEC.system_prompt}
    assert a.id == example_id(a.messages) and a.source == {"file": "raw/a.jsonl", "line": 7}


def test_a_declared_format_refuses_the_other() -> None:
    assert rules({"text": "aa", "label": "bug_report"}, make_spec(format="messages")) == ["unknown_shape"]
    assert rules(chat(), make_spec(format="text_label")) == ["unknown_shape"]
    assert rules(chat(), make_spec(format="messages")) == []


def test_origin_comes_from_the_row_or_the_file() -> None:
    for row, file, origin in (
        (chat(), "raw/a.jsonl", "human"),
        (chat(), "production.jsonl", "production"),
        (chat(origin="human"), "production.jsonl", "human"),
        (chat(origin="synthetic"), "raw/a.jsonl", "synthetic"),
    ):
        done = check(row, file=file).example
        assert done is not None and done.origin == origin
    log = check(chat(id="log-17"), file="production.jsonl").example
    assert log is not None and log.source == {"file": "production.jsonl", "line": 7, "id": "log-17"}


def test_a_text_task_takes_any_answer() -> None:
    spec = make_spec(output=TEXT_OUTPUT)
    done = check({"text": "Say hi", "label": "Hello there"}, spec).example
    assert done is not None and done.label is None and done.answer == "Hello there"


def test_nearest_label_ignores_case_and_joining_marks() -> None:
    assert nearest_label("FEATURE  request", LABELS).startswith("write 'feature_request'")


def test_stage_accounts_for_every_line(tmp_path: Path) -> None:
    raw = write_raw(
        tmp_path / "raw",
        [
            b"\xef\xbb\xbf" + json.dumps(chat()).encode(),
            b"",
            b"   ",
            {"text": "aa"},
            b"{",
            chat(user="a &lt; b", extra=1),
            b"x" * 100,
        ],
    )
    write_raw(raw, [{"text": "It is down, mail jane@example.com", "label": "P0"}], "production.jsonl")
    facts = validate(raw, SPEC, tmp_path / "out")
    assert facts | {"labels": 0, "files": 0, "shapes": 0, "parts": 0} == {
        "rows_in": 6,
        "kept": 2,
        "quarantined": 4,
        "quarantined_share": round(4 / 6, 6),
        "blank_lines": 2,
        "labels": 0,
        "by_rule": {
            "data.bad_json": 2,
            "data.byte_order_mark": 1,
            "data.html_entity": 1,
            "data.missing_field": 1,
            "data.unknown_label": 1,
        },
        "files": 0,
        "shapes": 0,
        "parts": 0,
        "taken_over": 0,
        "ignored_keys": {"extra": 1},
    }
    assert facts["labels"] == {"bug_report": 2, "feature_request": 0, "P0_incident": 0}
    assert [(f["file"], f["rows_in"], f["kept"]) for f in facts["files"]] == [
        ("production.jsonl", 1, 0),
        ("raw/a.jsonl", 5, 2),
    ]
    rows = read_lines(tmp_path / "out/quarantine.jsonl")
    assert [(r["file"], r["line"]) for r in rows] == [("production.jsonl", 1)] + [("raw/a.jsonl", n) for n in (4, 5, 7)]
    assert rows[0]["raw"] == '{"text": "It is down, mail [EMAIL_1]", "label": "P0"}'
    assert rows[1]["findings"][0]["rule"] == "data.missing_field"
    assert [e.source["line"] for e in read_examples(tmp_path / "out")] == [1, 6]
    assert len(read_lines(tmp_path / "out/findings.jsonl")) == 6


def test_a_monstrous_line_is_quarantined_in_part(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [b'{"text": "' + b"x" * (9 * 1024 * 1024), chat()])
    facts = validate(raw, SPEC, tmp_path / "out")
    assert (facts["kept"], facts["by_rule"]) == (1, {"data.line_too_long": 1})
    assert len(read_lines(tmp_path / "out/quarantine.jsonl")[0]["raw"]) == 2000


def test_same_bytes_same_files(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "raw", [chat(), {"text": 1}, b"\xff"])
    for out in ("a", "b"):
        validate(raw, SPEC, tmp_path / out)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert {p.name for p in files} >= {"examples.jsonl", "quarantine.jsonl", "findings.jsonl", "parts.json"}
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "text", "label", "origin", "tags", "weight", "é"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool", "User"]) | JSON,
        "content": st.sampled_from([PROMPT, "bug_report", "hello\x00", "<|a|>", "\ud800"]) | JSON,
    }
)
ROW = (
    JSON
    | st.fixed_dictionaries({"messages": st.lists(TURN, max_size=4)})
    | st.fixed_dictionaries({"text": JSON, "label": st.sampled_from(LABELS) | JSON})
)
LINE = (
    st.binary(max_size=60)
    | ROW.map(lambda v: json.dumps(v).encode())
    | st.tuples(ROW, st.integers(0, 80)).map(
        lambda t: json.dumps(t[0], ensure_ascii=False).encode("utf-8", "surrogatepass")[: t[1]]
    )
)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(lines=st.lists(LINE, max_size=6))
def test_any_bytes_end_kept_or_quarantined(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("any")
    raw = write_raw(folder, lines)
    facts = validate(raw, SPEC, folder / "out")
    assert facts["rows_in"] == facts["kept"] + facts["quarantined"]
    assert len(read_examples(folder / "out")) == facts["kept"]
    quarantined = read_lines(folder / "out/quarantine.jsonl")
    assert len(quarantined) == facts["quarantined"] and all(row["findings"] for row in quarantined)
