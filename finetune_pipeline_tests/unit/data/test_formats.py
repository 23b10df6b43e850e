from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data import formats
from finetune_pipeline.data.examples import example_id
from finetune_pipeline.data.fields import check_fields
from finetune_pipeline.data.formats import FORMATS
from finetune_pipeline_tests.unit.data.raw_rows import SPEC, S, kept_example, row_rules, turn, validate_row
from finetune_pipeline_tests.unit.data.rows import PROMPT, TEXT_OUTPUT, chat, make_spec

TEXT = make_spec(TEXT_OUTPUT, max_chars=400)
REFERENCE = Path(__file__).parents[3] / "tools" / "make_reference.py"
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def test_a_chat_with_tools_becomes_canonical() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": {"order": 7}}}
    asked = [S, turn("user", "Where is my order?"), turn("assistant", None, tool_calls=[call])]
    result = turn("tool", '{"state": "sent"}', tool_call_id="c1", name="look_up")
    row = {"messages": [*asked, result, turn("assistant", "It was sent.", weight=1)], "tools": [TOOL]}
    done = kept_example(row, TEXT)
    assert done.messages[2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look_up", "arguments": '{"order":7}'}}],
    }
    assert done.messages[3] == result
    assert done.tools == [TOOL] and done.id == example_id(done.messages, done.tools)
    assert row_rules({**row, "tools": [{"name": "other"}]}, TEXT) == ["unknown_tool"]
    bad = [*asked, turn("tool", "x", tool_call_id="c9"), turn("assistant", "yes")]
    assert row_rules({"messages": bad}, TEXT) == ["bad_tool_call"]


def test_sharegpt_becomes_canonical_with_its_calls() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "Where is it?"},
            {"from": "function_call", "value": '{"name": "look_up", "arguments": {"order": 7}}'},
            {"from": "observation", "value": "sent"},
            {"from": "gpt", "value": "It was sent."},
        ],
        "tools": '[{"name": "look_up", "parameters": {}}]',
        "system": PROMPT,
    }
    done = kept_example(row, TEXT)
    assert [m["role"] for m in done.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert done.messages[2]["tool_calls"][0]["function"] == {"name": "look_up", "arguments": '{"order":7}'}
    assert done.tools == [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]


@pytest.mark.parametrize(
    ("row", "user", "answer", "ignored"),
    [
        ({"question": "1+1?", "answer": "2"}, "1+1?", "2", []),
        ({"input": "1+1?", "output": "2"}, "1+1?", "2", []),
        ({"instruction": "Add", "input": "1, 1", "output": "2"}, "Add\n\n1, 1", "2", []),
        ({"prompt": "1+1?", "chosen": "2", "rejected": "3"}, "1+1?", "2", ["rejected"]),
    ],
)
def test_aliases_and_preference_rows(row: Any, user: str, answer: str, ignored: list[str]) -> None:
    checked = validate_row(row, TEXT)
    assert checked.example is not None and checked.findings == []
    assert (checked.example.user_text, checked.example.answer, checked.ignored) == (user, answer, ignored)


def test_the_system_prompt_is_added_where_it_may_be() -> None:
    spec = make_spec(inject=True)
    assert kept_example(chat(system=None), spec).messages == kept_example(chat()).messages
    assert row_rules(chat(system="Other."), spec) == ["wrong_system_prompt"]
    assert kept_example({"text": "It broke", "label": "bug_report"}).messages[0]["content"] == SPEC.system_prompt


QUESTION_ANSWER = """
from finetune_pipeline.data.formats.base import RawFormat, read_single_texts, register

@register
class QuestionAnswer(RawFormat):
    name, order = "question_answer", 35
    documented, row_keys = "`q`, `a`", ("q", "a")

    def recognises(self, keys):
        return "q" in keys and "a" in keys

    def read(self, row, spec, turns):
        return read_single_texts(row, "q", "a", spec, turns)
"""


@pytest.fixture
def question_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One more file in the folder of formats."""
    (tmp_path / "question_answer.py").write_text(QUESTION_ANSWER)
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    module = importlib.import_module("finetune_pipeline.data.formats.question_answer")
    yield
    del FORMATS["question_answer"], sys.modules[module.__name__]


@pytest.mark.usefixtures("question_answer")
def test_a_format_is_one_file() -> None:
    row = {"q": "1+1?", "a": "2", "extra": 1}
    spec = make_spec(TEXT_OUTPUT, format="question_answer")
    checked = validate_row(row, spec)
    assert checked.example is not None and (checked.example.user_text, checked.example.answer) == ("1+1?", "2")
    assert (checked.shape, checked.ignored, check_fields(spec)) == ("question_answer", ["extra"], [])
    assert row_rules({"text": "x", "label": "y"}, spec) == ["unknown_shape"]
    assert list(FORMATS) == sorted(FORMATS, key=lambda name: FORMATS[name].order)
    assert "`question_answer` | `q`, `a`" in runpy.run_path(str(REFERENCE))["render"]()
