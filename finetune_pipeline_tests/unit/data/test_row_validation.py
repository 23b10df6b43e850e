"""From a raw row to a canonical example: formats, mapped fields, answers held to their form, and what a finding says."""

import importlib
import json
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.data import formats
from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.examples import example_id, read_examples
from finetune_pipeline.data.fields import check_fields, mapping_of
from finetune_pipeline.data.formats import FORMATS
from finetune_pipeline.data.readers.records import Record
from finetune_pipeline.data.review import read_decision
from finetune_pipeline.data.validate.validation import validate, validate_record
from finetune_pipeline.production.log_rows import problems_of
from finetune_pipeline.spec import patterns
from finetune_pipeline_tests.unit.data.raw_rows import FILE, SPEC, A, S, U, kept_example, row_rules, turn, validate_row
from finetune_pipeline_tests.unit.data.rows import PROMPT, TEXT_OUTPUT, chat, make_spec, read_lines, write_raw
from finetune_pipeline_tests.unit.data.slot_rows import CODE, FORGOTTEN

TEXT = make_spec(TEXT_OUTPUT, max_chars=400)
REFERENCE = Path(__file__).parents[3] / "tools" / "make_reference.py"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {}}}
JSON_OUTPUT = {"kind": "json", "json_schema": {}}
FIXES: list[tuple[Any, str, str]] = [
    (b'{"text": "aa", "label": "x"} trailing', "column 30", "own line"),
    (b'{"text": "abc\xed\xa0\xbc\xed\xbd\x95"}', "0xed at byte offset 13", "UTF-8"),
    ({"txt": "a", "label_": "b"}, "'label_', 'txt'", "'label_' to `label`, 'txt' to `text`"),
    ({"c1": "a", "c2": "b"}, "'c1', 'c2'", "data.fields"),
    ({"question": "a"}, "'question'", "the answer is missing: add"),
    ({"turns": [{"speaker": "USER", "utterance": "a"}]}, "'turns'", "`finetune try FILE` drafts them"),
    ({"text": "aa", "label": " Bug Report "}, "'Bug Report'", "write 'bug_report'"),
    ({"text": "aa", "label": "p0_incidnt"}, "'p0_incidnt'", "did you mean 'P0_incident'?"),
    (chat(system=PROMPT.replace("ticket", "Ticket")), "character 14", "word for word"),
    ({"messages": [S, U, U, A]}, "turn 3 is by 'user' where 'assistant' must speak", "alternate"),
]
LINES: list[tuple[Any, Any, str]] = [
    ({"text": "It broke", "category": "bug_report"}, None, "data: {fields: {label: category}}"),
    ({"c1": "bug_report", "c2": "It broke"}, None, "data: {fields: {text: c2, label: c1}}"),
    ({"Message": "It broke", "Ticket type": "bug_report"}, None, """{text: Message, label: '"Ticket type"'}"""),
    ({"text_id": "7", "body": "It broke", "queue": "bug_report"}, None, "{fields: {text: body, label: queue}}"),
    ({"prompt": "It broke", "completion": ["bug_report"]}, JSON_OUTPUT, ""),
    ({"text": "It broke", "label": {"kind": "bug"}}, JSON_OUTPUT, ""),
]


def test_messages_say_what_and_how_to_fix() -> None:
    for row, said, fix in FIXES:
        finding = next(f for f in validate_row(row).findings if f.severity == "error")
        assert said in finding.message and fix in finding.fix, row


def test_an_answer_that_a_served_model_gave_is_not_taken_for_a_persons() -> None:
    """It may be the very answer that its user rejected."""
    spec = make_spec({"kind": "labels", "labels": ["red", "blue"]}, inject=True)
    line = {"input": "a fire", "output": "red", "model_version": "colours:3", "feedback": {"correction": "blue"}}
    assert row_rules(line, spec) == ["served_answer"]
    (finding,) = validate_row(line, spec).findings
    assert "colours:3" in finding.message and "logs/" in finding.fix
    declared = kept_example(line | {"origin": "synthetic"}, spec)
    assert (declared.label, declared.origin) == ("red", "synthetic")
    assert kept_example({"input": "a fire", "output": "red"}, spec).origin == "human"
    labelled = kept_example({"text": "a fire", "label": "blue", "output": "red", "model_version": "colours:3"}, spec)
    assert (labelled.label, labelled.origin) == ("blue", "human"), "the model's answer stands beside a person's"


def test_the_suggested_line_makes_the_row_readable() -> None:
    for row, output, fix in LINES:
        finding = next(f for f in validate_row(row, make_spec(output)).findings if f.severity == "error")
        line = yaml.safe_load(finding.fix.split("`")[1])["data"]
        assert kept_example(row, make_spec(output, inject=True, **line)).user_text == "It broke" and fix in finding.fix


def test_formats_meet_in_one_canonical_example() -> None:
    a, b = kept_example({"text": " It broke\r\n", "label": "bug_report "}), kept_example(chat(user="It broke"))
    assert a == b
    assert a.messages[0] == {"role": "system", "content": SPEC.system_prompt}
    assert a.id == example_id(a.messages) and a.source == {"file": FILE, "line": 7}
    for row, user, ignored in (
        ({"question": "1+1?", "answer": "2"}, "1+1?", []),
        ({"input": "1+1?", "output": "2"}, "1+1?", []),
        ({"instruction": "Add", "input": "1, 1", "output": "2"}, "Add\n\n1, 1", []),
        ({"prompt": "1+1?", "chosen": "2", "rejected": "3"}, "1+1?", ["rejected"]),
    ):
        checked = validate_row(row, TEXT)
        assert checked.example is not None and checked.findings == []
        assert (checked.example.user_text, checked.example.answer, checked.ignored) == (user, "2", ignored)


def test_chats_with_tools_become_canonical() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": {"order": 7}}}
    asked = [S, turn("user", "Where is my order?"), turn("assistant", None, tool_calls=[call])]
    result = turn("tool", '{"state": "sent"}', tool_call_id="c1", name="look_up")
    row = {"messages": [*asked, result, turn("assistant", "It was sent.", weight=1)], "tools": [TOOL]}
    done = kept_example(row, TEXT)
    as_text = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order":7}'}}
    assert done.messages[2] == {"role": "assistant", "content": "", "tool_calls": [as_text]}
    assert done.messages[3] == result
    assert done.tools == [TOOL] and done.id == example_id(done.messages, done.tools)
    assert row_rules({**row, "tools": [{"name": "other"}]}, TEXT) == ["unknown_tool"]
    bad = [*asked, turn("tool", "x", tool_call_id="c9"), turn("assistant", "yes")]
    assert row_rules({"messages": bad}, TEXT) == ["bad_tool_call"]
    said = {"human": "Where is it?", "function_call": '{"name": "look_up", "arguments": {"order": 7}}'}
    said |= {"observation": "sent", "gpt": "It was sent."}
    turns = [{"from": name, "value": value} for name, value in said.items()]
    share = {"conversations": turns, "tools": '[{"name": "look_up", "parameters": {}}]', "system": PROMPT}
    done = kept_example(share, TEXT)
    assert [m["role"] for m in done.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert done.messages[2]["tool_calls"][0]["function"] == as_text["function"] and done.tools == [TOOL]


def test_the_system_prompt_is_added_where_it_may_be_and_a_declared_format_refuses_the_others() -> None:
    spec = make_spec(inject=True)
    assert kept_example(chat(system=None), spec).messages == kept_example(chat()).messages
    assert row_rules(chat(system="Other."), spec) == ["wrong_system_prompt"]
    for system in (PROMPT, [{"type": "text", "text": PROMPT}]):  # beside the turns, as Anthropic's API has it
        assert validate_row(chat(system=None) | {"system": system}).ignored == []
    assert row_rules(chat(system=None) | {"system": "Other."}) == ["wrong_system_prompt"]
    pair = {"text": "aa", "label": "bug_report"}
    for row, name, found in ((pair, "messages", 1), (chat(), "text_label", 1), (chat(), "messages", 0)):
        assert row_rules(row, make_spec(format=name)) == ["unknown_shape"] * found


def test_origin_comes_from_the_row_or_the_file() -> None:
    for row, file, origin in (
        (chat(), FILE, "human"),
        (chat(), "production.jsonl", "production"),
        (chat(origin="human"), "production.jsonl", "human"),
        (chat(origin="synthetic", generator="m"), FILE, "synthetic"),
    ):
        done = validate_row(row, file=file).example
        assert done is not None and done.origin == origin and done.generator == row.get("generator")
    log = validate_row(chat(id="log-17"), file="production.jsonl").example
    assert log is not None and log.source == {"file": "production.jsonl", "line": 7, "id": "log-17"}


TOY_PAIRS = """
from finetune_pipeline.data.formats.base import RawFormat, read_single_texts, register

@register
class ToyPairs(RawFormat):
    name, order = "toy_pairs", 35
    documented, row_keys, needs = "`q`, `a`", ("toy_q", "toy_a"), (("toy_q",), ("toy_a",))

    def read(self, row, spec, turns):
        return read_single_texts(row, "toy_q", "toy_a", spec, turns)
"""


def test_a_format_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_pairs.py").write_text(TOY_PAIRS)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    name = importlib.import_module("finetune_pipeline.data.formats.toy_pairs").__name__
    try:
        spec = make_spec(TEXT_OUTPUT, format="toy_pairs")
        checked = validate_row({"toy_q": "1+1?", "toy_a": "2", "extra": 1}, spec)
        assert checked.example is not None and (checked.example.user_text, checked.example.answer) == ("1+1?", "2")
        assert (checked.shape, checked.ignored, check_fields(spec)) == ("toy_pairs", ["extra"], [])
        assert row_rules({"text": "x", "label": "y"}, spec) == ["unknown_shape"]
        assert "`toy_pairs` | `q`, `a`" in runpy.run_path(str(REFERENCE))["render"]()
    finally:
        del FORMATS["toy_pairs"], sys.modules[name]


def check(row: Any, output: Any = None, **data: Any) -> Any:
    spec = make_spec(output, **data)
    record = Record(3, None, json.dumps(row).encode(), key="bug_report", encoded=True)
    return validate_record(record, "raw/a.json", spec, mapping_of(spec))


MAPPED: list[tuple[dict[str, str], Any, str]] = [
    ({"text": "body", "label": "queue.name"}, {"body": "It broke", "queue": {"name": "bug_report"}}, "It broke"),
    ({"text": "join('', data[].text)", "label": "$key"}, {"data": [{"text": "It "}, {"text": "broke"}]}, "It broke"),
    ({"text": "$file", "label": "[1]"}, [5, "bug_report"], "raw/a.json"),
    ({"text": "@", "label": "='bug_report'"}, "It broke", "It broke"),
    # what is not mapped is found by the format
    ({"label": "category"}, {"text": "It broke", "category": "bug_report"}, "It broke"),
    ({"text": "body"}, {"body": "It broke", "label": "bug_report"}, "It broke"),
    ({"completion": "category"}, {"question": "It broke", "category": "bug_report"}, "It broke"),
    ({"output": "result"}, {"instruction": "It broke", "result": "bug_report"}, "It broke"),
]


def test_expressions_say_where_things_are() -> None:
    for fields, row, expected in MAPPED:
        (done,) = check(row, fields=fields)
        assert done.findings == [] and (done.example.user_text, done.example.label) == (expected, "bug_report"), fields
    row = {"t": "It broke", "l": "bug_report", "tags": "BIL", "group": 3, "time": "noon"}
    (done,) = check(row, fields={"text": "t", "label": "l"})
    assert done.findings == [] and done.ignored == ["group", "tags", "time"]


def test_each_makes_a_row_of_every_element() -> None:
    def said(done: list[Any]) -> list[tuple[str, str]]:
        assert all(not c.findings and c.ignored == [] for c in done)
        return [(c.example.user_text, c.example.answer) for c in done]

    instances = [{"input": "1, 1", "output": "2"}, {"input": "", "output": "3"}]
    row, each = {"id": "s", "instruction": "Add", "instances": instances}, {"each": "instances"}
    assert said(check(row, TEXT_OUTPUT, fields=each)) == [("Add\n\n1, 1", "2"), ("Add", "3")]
    by_place = {"each": "pairs", "text": "element[0]", "label": "element[1]"}
    pairs = [("one", "bug_report"), ("two", "bug_report")]
    assert said(check({"pairs": pairs}, fields=by_place)) == pairs
    for value in ([], None, "x", {}):
        (checked,) = check({"instruction": "Add", "instances": value}, TEXT_OUTPUT, fields=each)
        assert [f.rule for f in checked.findings] == ["data.missing_field"] and checked.example is None


def test_wrong_mappings_are_found_when_the_spec_is_loaded() -> None:
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"fields": {"text": "a[", "label": "b"}}, "data.fields.text", "not a valid JMESPath"),
        ({"fields": {"text": "=x", "label": "b"}}, "data.fields.text", "quotes"),
        ({"fields": {"text": "nosuch(a)", "label": "b"}}, "data.fields.text", "nosuch"),
        ({"fields": {"text": "a", "label": "b", "messages": "c"}}, "data.fields", "several forms"),
        ({"fields": {"text": "a", "label": "b"}, "format": "messages"}, "data.fields", "data.format is `messages`"),
        ({"csv": {"encoding": "klingon"}}, "data.csv.encoding", "klingon"),
        ({"csv": {"encoding": "base64"}}, "data.csv.encoding", "not a known text encoding"),
    ]
    for data, key, said in wrong:
        findings = check_fields(make_spec(**data))
        assert [f.place for f in findings] == [f"task.yaml: {key}"] and said in findings[0].message + findings[0].fix


DAY = {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"}
SCHEMA = {"type": "object", "required": ["day", "guests"], "additionalProperties": False}
BOOKING = {"kind": "json", "json_schema": SCHEMA | {"properties": {"day": DAY, "guests": {"type": "integer"}}}}


def test_gold_answers_and_corrections_are_held_to_their_form() -> None:
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        ('{"guests": 4, "day": "2026-05-01"}', {}, []),
        ('{"day": "2026-05-01", "guests": 4', {}, ["answer_not_json"]),
        ("```json\n{}\n```", {}, ["answer_not_json"]),
        ("[" * 400 + "]" * 400, {"kind": "json", "json_schema": {"items": {"$ref": "#"}}}, ["answer_not_json"]),
        ('{"day": "1 May", "guests": 4}', {}, ["answer_schema"]),
        ('{"day": "2026-05-01", "guests": 4, "note": ""}', {}, ["answer_schema"]),
        ('{"day": "2026-05-01", "guests": NaN}', {}, ["answer_not_json"]),
        ("no mark", {"kind": "text", "extract": r"#### (\d+)"}, ["answer_no_final_answer"]),
        ("it holds a", {"kind": "text", "required": ["a"]}, []),
        ("it is b", {"kind": "text", "required": ["a"], "forbidden": ["b"]}, ["answer_required", "answer_forbidden"]),
    ]
    for answer, output, rules in cases:
        row = {"prompt": "A table for four, the first of May", "completion": answer}
        checked = validate_row(row, make_spec(output or BOOKING, inject=True))
        assert (checked.example is None) == bool(rules)
        assert [(f.rule, f.place) for f in checked.findings] == [(f"data.{rule}", f"{FILE}:7") for rule in rules]
    decision = {"id": "a", "decision": "relabel", "reviewer": "kim", "label": '{"guests": 4}'}
    made, findings = read_decision(decision, make_spec(BOOKING), "r.jsonl:1")
    assert made is None and [f.rule for f in findings] == ["data.review_answer_schema"]
    logged = {"id": "1", "timestamp": "2026-05-01T10:00:00Z", "output": "x", "model_version": "1", "input": "x"}
    logged["feedback"] = {"correction": "no JSON"}
    assert [f.rule for f in problems_of(logged, "l.jsonl:1", make_spec(BOOKING))] == ["log.answer_not_json"]


def test_a_pattern_that_takes_too_long_on_an_answer_does_not_match_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "LIMIT_S", 0.1)
    began = time.process_time()
    for output in (
        {"kind": "text", "pattern": "(?:.*,){7}[bc]"},
        {"kind": "text", "extract": "((?:.*,){7})[bc]"},
        {"kind": "json", "json_schema": {"type": "string", "pattern": "(?:.*,){7}[bc]"}},
    ):
        answer = "," * 20_000
        (problem,) = form_problems(json.dumps(answer) if output["kind"] == "json" else answer, make_spec(output).output)
        assert problem[0] in ("pattern", "no_final_answer", "schema")
    assert time.process_time() - began < 3


@pytest.mark.parametrize("question, answer", FORGOTTEN)
def test_a_slot_that_nobody_filled_is_a_fault(question: str, answer: str) -> None:
    checked = validate_row({"prompt": question, "completion": answer}, make_spec(TEXT_OUTPUT, inject=True, min_chars=1))
    assert [f.rule for f in checked.findings if f.severity == "error"] == ["data.template_residue"]
    assert "{{" in checked.findings[0].message and checked.example is None


@pytest.mark.parametrize("question, answer", CODE)
def test_braces_of_code_are_no_slots(question: str, answer: str) -> None:
    checked = validate_row({"prompt": question, "completion": answer}, make_spec(TEXT_OUTPUT, inject=True, min_chars=1))
    assert checked.example is not None, checked.findings


def test_a_task_about_templates_has_slots_in_its_answers() -> None:
    row = {"prompt": "a bank welcomes a customer", "completion": "Dear {{name}}, your account is open."}
    spec = make_spec(TEXT_OUTPUT, inject=True)
    assert validate_row(row, spec).example is None
    writes = spec.model_copy(update={"system_prompt": "You write templates of letters, with {{slots}}."})
    assert validate_row(row, writes).example is not None


def test_all_problems_of_a_row_come_at_once() -> None:
    row = chat("<|x|> \x02 " + "y" * 400, "bug", "no", origin="x", tags=3)
    of_texts = ["control_characters", "template_residue", "too_long", "unknown_label"]
    assert row_rules(row) == [*of_texts, "unknown_origin", "wrong_system_prompt", "wrong_type"]
    line = b'{"text": "\xff", "label": "bug_report", "label": NaN}'
    assert row_rules(line) == ["duplicate_key", "invalid_utf8", "non_finite_number", "too_short", "wrong_type"]


def test_what_a_finding_quotes_is_short_and_scrubbed_as_the_task_asks(tmp_path: Path) -> None:
    labels = ["612 34 56 78", "ann@example.com", "bob@example.com " + "x" * 500]
    raw = write_raw(tmp_path / "raw", [{"text": "It is down", "label": label} for label in labels])
    facts = validate(raw, make_spec(scrub_region="ES"), tmp_path / "out")
    assert {"'[PHONE_1]'": 1, "'[EMAIL_1]'": 1}.items() <= facts.labels_unknown.items()
    messages = [finding["message"] for finding in read_lines(tmp_path / "out/findings.jsonl")]
    assert [m.partition("]")[0] for m in messages] == ["'[PHONE_1", "'[EMAIL_1", "'[EMAIL_1"] and len(messages[2]) < 200


def test_stage_accounts_for_every_line(tmp_path: Path) -> None:
    marked = b"\xef\xbb\xbf" + json.dumps(chat()).encode()
    lines = [marked, b"", b"   ", {"text": "aa"}, b"{", chat(user="a &lt; b", extra=1), b"x" * 100]
    raw = write_raw(tmp_path / "raw", lines)
    write_raw(raw, [{"text": "It is down, mail jane@example.com, 612 34 56 78", "label": "P0"}], "production.jsonl")
    facts = validate(raw, make_spec(max_chars=400, scrub_region="ES"), tmp_path / "out")
    assert [facts.rows_in, facts.kept, facts.quarantined, facts.quarantined_share] == [6, 2, 4, 0.666667]
    rules = {"bad_json": 2, "byte_order_mark": 1, "html_entity": 1, "missing_field": 1, "unknown_label": 1}
    assert facts.by_rule == {f"data.{rule}": n for rule, n in rules.items()}
    assert (facts.ignored_keys, facts.labels_lost, facts.labels_unknown) == ({"extra": 1}, {}, {"'P0'": 1})
    assert facts.labels == {"bug_report": 2, "feature_request": 0, "P0_incident": 0}
    files = [(f.file, f.rows_in, f.kept) for f in facts.files]
    assert files == [("production.jsonl", 1, 0), ("raw/a.jsonl", 5, 2)]
    rows = read_lines(tmp_path / "out/quarantine.jsonl")
    assert [(r["file"], r["line"]) for r in rows] == [("production.jsonl", 1)] + [("raw/a.jsonl", n) for n in (4, 5, 7)]
    assert rows[0]["raw"] == '{"text": "It is down, mail [EMAIL_1], [PHONE_1]", "label": "P0"}'
    assert rows[1]["findings"][0]["rule"] == "data.missing_field"
    assert [e.source["line"] for e in read_examples(tmp_path / "out")] == [1, 6]
    assert len(read_lines(tmp_path / "out/findings.jsonl")) == 6
