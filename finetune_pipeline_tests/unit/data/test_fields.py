from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_pipeline.data.fields import check_fields, mapping_of
from finetune_pipeline.data.readers.records import Record
from finetune_pipeline.data.validate.validation import validate_record
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, make_spec


def check(row: Any, key: str | None = None, output: Any = None, file: str = "raw/a.json", **data: Any) -> Any:
    spec = make_spec(output, **data)
    record = Record(3, None, json.dumps(row).encode(), key=key, encoded=True)
    return validate_record(record, file, spec, mapping_of(spec))


def said(row: Any, **more: Any) -> list[tuple[str, str]]:
    done = check(row, **more)
    assert all(c.example is not None and not c.findings for c in done), [c.findings for c in done]
    return [(c.example.user_text, c.example.answer) for c in done]


@pytest.mark.parametrize(
    ("fields", "row", "expected"),
    [
        ({"text": "body", "label": "queue.name"}, {"body": "It broke", "queue": {"name": "bug_report"}}, "It broke"),
        (
            {"text": "join('', data[].text)", "label": "$key"},
            {"data": [{"text": "It "}, {"text": "broke"}]},
            "It broke",
        ),
        ({"text": "$file", "label": "[1]"}, [5, "bug_report"], "raw/a.json"),
        ({"text": "@", "label": "='bug_report'"}, "It broke", "It broke"),
    ],
)
def test_expressions_say_where_things_are(fields: dict[str, str], row: Any, expected: str) -> None:
    assert said(row, key="bug_report", fields=fields) == [(expected, "bug_report")]


def test_dialogues_with_declared_roles() -> None:
    turns = [{"speaker": "USER", "utterance": "Hello there"}, {"speaker": "SYSTEM", "utterance": "Good day"}]
    row = {"dialogue_id": "7_0", "services": [], "turns": turns}
    fields = {"messages": "turns[].{role: speaker, content: utterance}", "group": "dialogue_id"}
    (done,) = check(row, output=TEXT_OUTPUT, fields=fields, roles={"USER": "user", "SYSTEM": "assistant"}, inject=True)
    assert done.example.group == "7_0" and done.ignored == ["services"] and done.shape == "mapped"
    assert [m["role"] for m in done.example.messages] == ["system", "user", "assistant"]


def test_each_makes_a_row_of_every_element() -> None:
    instances = [{"input": "1, 1", "output": "2"}, {"input": "", "output": "3"}]
    row = {"id": "s", "instruction": "Add", "instances": instances}
    assert said(row, output=TEXT_OUTPUT, fields={"each": "instances"}) == [("Add\n\n1, 1", "2"), ("Add", "3")]
    assert check(row, output=TEXT_OUTPUT, fields={"each": "instances"})[0].ignored == []
    pairs = {"pairs": [["one", "bug_report"], ["two", "bug_report"]]}
    by_place = {"each": "pairs", "text": "element[0]", "label": "element[1]"}
    assert said(pairs, fields=by_place) == [("one", "bug_report"), ("two", "bug_report")]
    for value in ([], None, "x", {}):
        (checked,) = check({"instruction": "Add", "instances": value}, output=TEXT_OUTPUT, fields={"each": "instances"})
        assert [f.rule for f in checked.findings] == ["data.missing_field"] and checked.example is None


def test_keys_that_are_not_mapped_say_nothing() -> None:
    """A column `tags` of some other meaning must not spoil a row whose mapping does not ask for it."""
    row = {"t": "It broke", "l": "bug_report", "tags": "BIL", "group": 3, "time": "noon"}
    (done,) = check(row, fields={"text": "t", "label": "l"})
    assert done.findings == [] and done.ignored == ["group", "tags", "time"]


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"label": "category"}, {"text": "It broke", "category": "bug_report"}),
        ({"text": "body"}, {"body": "It broke", "label": "bug_report"}),
        ({"completion": "category"}, {"question": "It broke", "category": "bug_report"}),
        ({"output": "result"}, {"instruction": "It broke", "result": "bug_report"}),
    ],
)
def test_texts_that_are_not_mapped_are_found_by_the_format(fields: dict[str, str], row: dict[str, str]) -> None:
    (done,) = check(row, fields=fields)
    assert done.example is not None and done.findings == []
    assert (done.example.user_text, done.example.label) == ("It broke", "bug_report")


@pytest.mark.parametrize(
    ("data", "key", "said"),
    [
        ({"fields": {"text": "a[", "label": "b"}}, "data.fields.text", "no JMESPath"),
        ({"fields": {"text": "", "label": "b"}}, "data.fields.text", "empty"),
        ({"fields": {"text": "=x", "label": "b"}}, "data.fields.text", "quotes"),
        ({"fields": {"text": "nosuch(a)", "label": "b"}}, "data.fields.text", "nosuch"),
        ({"fields": {"rows": "a b", "text": "c", "label": "d"}}, "data.fields.rows", "JMESPath"),
        ({"fields": {"text": "a", "label": "b", "messages": "c"}}, "data.fields", "several forms"),
        ({"fields": {"text": "a", "label": "b"}, "format": "messages"}, "data.fields", "data.format says `messages`"),
        ({"csv": {"encoding": "klingon"}}, "data.csv.encoding", "klingon"),
        ({"csv": {"encoding": "base64"}}, "data.csv.encoding", "no encoding of text"),
    ],
)
def test_wrong_mappings_are_found_when_the_spec_is_loaded(data: dict[str, Any], key: str, said: str) -> None:
    findings = check_fields(make_spec(**data))
    assert [f.place for f in findings] == [f"task.yaml: {key}"] and said in findings[0].message + findings[0].fix
