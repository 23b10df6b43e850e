from __future__ import annotations

from functools import partial
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.scrub import (
    Scrubber,
    Span,
    find_spans,
    fingerprint,
    scrub_example,
    scrub_text,
    scrub_turns,
    spans_left,
)

KEY = b"k" * 32


def call(arguments: str) -> dict[str, Any]:
    return {"id": "1", "type": "function", "function": {"name": "send", "arguments": arguments}}


def test_same_value_same_placeholder_across_turns() -> None:
    turns = [
        {"role": "system", "content": "ask boss@example.com"},
        {"role": "user", "content": "a@example.com or b@example.com, A@Example.com; +1 555 010 2030"},
        {"role": "assistant", "content": "I wrote to b@example.com and called +1 (555) 010-2030"},
    ]
    done = scrub_turns(turns)
    assert [m["content"] for m in done.messages] == [
        "ask boss@example.com",
        "[EMAIL_1] or [EMAIL_2], [EMAIL_1]; [PHONE_1]",
        "I wrote to [EMAIL_2] and called [PHONE_1]",
    ]
    assert done.counts == {"email": 4, "phone": 2}
    assert turns[1]["content"].startswith("a@example.com")
    assert scrub_turns(turns, keep=[2]).messages[2] == turns[2]
    assert scrub_turns(done.messages) == (done.messages, {}, [])


def test_placeholders_in_the_text_are_not_taken_again() -> None:
    assert scrub_text("[EMAIL_1] forwarded c@example.com") == "[EMAIL_1] forwarded [EMAIL_2]"
    assert scrub_text("see x.y@example.com vs xy@example.com") == "see [EMAIL_1] vs [EMAIL_2]"
    assert scrub_text("[NATIONAL_ID_4], SSN 078-05-1120") == "[NATIONAL_ID_4], SSN [NATIONAL_ID_5]"


def test_arguments_of_tool_calls_stay_json_and_keep_their_form() -> None:
    arguments = '{ "to":"jane@example.com",\n "phone": 5550142000, "tags": ["call 555-123-4567"], "n": 12, "ok": true }'
    turns = [
        {"role": "user", "content": "mail jane@example.com"},
        {"role": "assistant", "content": "", "tool_calls": [call(arguments)], "weight": 1},
    ]
    done = scrub_turns(turns)
    made = done.messages[1]["tool_calls"][0]
    scrubbed = '{ "to":"[EMAIL_1]",\n "phone": "[PHONE_1]", "tags": ["call [PHONE_2]"], "n": 12, "ok": true }'
    assert made["function"]["arguments"] == scrubbed
    assert done.counts == {"email": 2, "phone": 2} and turns[1]["tool_calls"][0]["function"]["arguments"] == arguments
    assert made["id"] == "1" and done.messages[1]["weight"] == 1
    assert scrub_turns(done.messages).messages == done.messages


def test_a_value_in_json_is_read_with_its_key_and_its_escapes() -> None:
    scrub = Scrubber().scrub_json
    assert scrub('{"password": "Tr0ub4dor&3", "n": "Tr0ub4dor&3"}') == '{"password": "[SECRET_1]", "n": "Tr0ub4dor&3"}'
    assert scrub('{"to": "jane\\u0040example.com"}') == '{"to": "[EMAIL_1]"}'
    assert scrub('{"text": "say \\"hi\\" to jane@example.com\\n"}') == '{"text": "say \\"hi\\" to [EMAIL_1]\\n"}'
    assert scrub('{"jane@example.com": 1}') == '{"jane@example.com": 1}'  # keys are names of fields
    assert Scrubber().scrub_json("{broken jane@example.com") == "{broken [EMAIL_1]"


def test_whole_examples() -> None:
    turns = [
        {"role": "system", "content": "write to desk@example.com"},
        {"role": "user", "content": "from jane@example.com and 203.0.113.7"},
        {"role": "assistant", "content": "Dear jane@example.com"},
    ]
    tools = [{"type": "function", "function": {"name": "a", "description": "x@example.com"}}]
    row = Example(id="0" * 16, messages=turns, tools=tools)
    done, counts, replaced = scrub_example(row, (), KEY)
    assert counts == {"email": 2, "ip": 1}
    assert replaced == [
        ("email", "[EMAIL_1]", fingerprint(KEY, "email", "jane@example.com"), "ja••@•••••••.•om"),
        ("ip", "[IP_1]", fingerprint(KEY, "ip", "203.0.113.7"), "2••.•.•••.7"),
    ]
    assert done.messages[2]["content"] == "Dear [EMAIL_1]" and done.tools == row.tools and done.id == row.id
    labelled = scrub_example(row, ("Dear jane@example.com",))
    assert labelled[0].messages[2] == turns[2] and labelled[2] == []
    assert spans_left(row) == ["email", "email", "ip"] and spans_left(row, ("x",)) == ["email", "ip"]
    assert spans_left(done) == [] and scrub_example(done) == (done, {}, [])
    clean = Example(id="1" * 16, messages=[{"role": "user", "content": "hello"}])
    assert scrub_example(clean)[0] is clean


def test_a_recogniser_finds_what_no_shape_does_and_never_overrides_one() -> None:
    def recogniser(text: str) -> list[Span]:
        return [Span(i, i + 4, "name") for i in range(len(text) - 3) if text[i : i + 4].lower() in ("jane", "name")]

    turns = [{"role": "user", "content": "Jane wrote from jane@example.com. JANE!"}]
    done = scrub_turns(turns, find=partial(find_spans, recogniser=recogniser))
    assert done.messages[0]["content"] == "[NAME_1] wrote from [EMAIL_1]. [NAME_1]!"
    assert done.counts == {"email": 1, "name": 2}
