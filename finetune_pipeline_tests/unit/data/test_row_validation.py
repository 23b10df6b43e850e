from __future__ import annotations

from typing import Any

import pytest
import yaml

from finetune_pipeline.data.examples import example_id
from finetune_pipeline_tests.unit.data.raw_rows import FILE, SPEC, A, S, U, kept_example, row_rules, turn, validate_row
from finetune_pipeline_tests.unit.data.rows import PROMPT, chat, make_spec

JSON_OUTPUT = {"kind": "json", "json_schema": {}}
SPOKEN = [{"speaker": "USER", "utterance": "It broke"}, {"speaker": "SYSTEM", "utterance": "bug_report"}]
DIALOGUE = {"dialogue_id": "1_00000", "turns": SPOKEN}
DIALOGUE_FIX = (
    "`data: {fields: {messages: 'turns[].{role: speaker, content: utterance}', group: dialogue_id}, "
    "roles: {USER: user, SYSTEM: assistant}}`"
)


@pytest.mark.parametrize(
    ("row", "said", "fix"),
    [
        (b'{"text": "aa", "label": }', "column 25", "JSON library"),
        (b'{"text": "aa", "label": "x"} trailing', "column 30", "own line"),
        (b'{"text": "abc\xff"}', "byte offset 13", "UTF-8"),
        (b'{"text": "abc\xed\xa0\xbc\xed\xbd\x95"}', "ed a0 bc ed bd 95", "CESU-8"),
        ({"txt": "a", "label_": "b"}, "'label_', 'txt'", "'label_' to `label`, 'txt' to `text`"),
        ({"message": []}, "'message'", "nearest format: `messages`; rename 'message' to `messages`"),
        ({"question": "a"}, "'question'", "the answer is missing: add"),
        ({"c1": "a", "c2": "b"}, "'c1', 'c2'", "data.fields"),
        ({"c1": "bug_report", "c2": "It broke"}, "'c1', 'c2'", "data: {fields: {text: c2, label: c1}}"),
        ({"text": "It broke", "category": "bug_report"}, "`label` is missing", "data: {fields: {label: category}}"),
        ({"Message": "It broke", "Ticket type": "bug_report"}, "no", """{text: Message, label: '"Ticket type"'}"""),
        ({"text_id": "7", "body": "It broke", "queue": "bug_report"}, "no", "{fields: {text: body, label: queue}}"),
        (DIALOGUE, "'dialogue_id', 'turns'", DIALOGUE_FIX),
        ({"messages": [S, turn("gpt", "aa"), A]}, "'gpt'", "write 'assistant'"),
        ({"text": "aa", "label": " Bug Report "}, "'Bug Report'", "write 'bug_report'"),
        ({"text": "aa", "label": "p0_incidnt"}, "'p0_incidnt'", "did you mean 'P0_incident'?"),
        (chat(system=PROMPT.replace("ticket", "Ticket")), "character 14", "word for word"),
        ({"messages": [S, U, U, A]}, "turn 3 is by 'user' where 'assistant' must speak", "in turn"),
    ],
)
def test_messages_say_what_and_how_to_fix(row: Any, said: str, fix: str) -> None:
    finding = next(f for f in validate_row(row).findings if f.severity == "error")
    assert said in finding.message
    assert fix in finding.fix


@pytest.mark.parametrize(
    ("row", "output"),
    [
        ({"text": "It broke", "category": "bug_report"}, None),
        ({"c1": "bug_report", "c2": "It broke"}, None),
        ({"Message": "It broke", "Ticket type": "bug_report"}, None),
        (DIALOGUE, None),
        ({"prompt": "It broke", "completion": ["bug_report"]}, JSON_OUTPUT),
        ({"text": "It broke", "label": {"kind": "bug"}}, JSON_OUTPUT),
    ],
)
def test_the_suggested_line_makes_the_row_readable(row: dict[str, Any], output: Any) -> None:
    finding = next(f for f in validate_row(row, make_spec(output)).findings if f.severity == "error")
    line = yaml.safe_load(finding.fix.split("`")[1])["data"]
    assert kept_example(row, make_spec(output, inject=True, **line)).user_text == "It broke"


def test_findings_do_not_repeat_secrets_or_whole_texts() -> None:
    message = validate_row({"text": "aa", "label": "ask jane.doe@example.com " + "x" * 500}).findings[0].message
    assert "jane" not in message and "[EMAIL_1]" in message and len(message) < 200


def test_formats_meet_in_one_canonical_example() -> None:
    a, b = kept_example({"text": " It broke\r\n", "label": "bug_report "}), kept_example(chat(user="It broke"))
    assert a == b
    assert a.messages[0] == {"role": "system", "content": SPEC.system_prompt}
    assert a.id == example_id(a.messages) and a.source == {"file": FILE, "line": 7}


def test_a_declared_format_refuses_the_others() -> None:
    assert row_rules({"text": "aa", "label": "bug_report"}, make_spec(format="messages")) == ["unknown_shape"]
    assert row_rules(chat(), make_spec(format="text_label")) == ["unknown_shape"]
    assert row_rules(chat(), make_spec(format="sharegpt")) == ["unknown_shape"]
    assert row_rules(chat(), make_spec(format="messages")) == []


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
