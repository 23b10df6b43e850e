"""Chat to tokens: loss on the assistant's tokens and their end only, and training text equal to serving text."""

from typing import Any

import pytest
from tokenizers import processors

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import encode_answer, encode_example, encode_prompt, end_ids, render
from finetune_pipeline_tests.tiny_model import TEMPLATE, tiny_messages


def learned_parts(tokenizer: Any, messages: list[dict[str, Any]], tools: Any = None) -> list[str]:
    (row,) = encode_example(tokenizer, messages, "e", tools)
    runs: list[list[int]] = []
    for i, (token, learned) in enumerate(zip(row.ids, row.loss, strict=True)):
        if learned:
            if not runs or not row.loss[i - 1]:
                runs.append([])
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


def refused(tokenizer: Any, messages: list[dict[str, Any]], tools: Any = None) -> Finding:
    with pytest.raises(FindingsError) as error:
        encode_example(tokenizer, messages, "e1", tools)
    (finding,) = error.value.findings
    return finding


def test_training_text_is_serving_text_token_for_token(tokenizer: Any) -> None:
    messages = tiny_messages(3)
    (row,) = encode_example(tokenizer, messages, "e")
    prompt = encode_prompt(tokenizer, messages[:-1])
    assert row.ids[: len(prompt)] == prompt and not any(row.loss[: len(prompt)])
    assert tokenizer.decode(row.ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    answer = encode_answer(tokenizer, messages[:-1], messages[-1]["content"])
    assert [t for t, learned in zip(row.ids, row.loss, strict=True) if learned] == answer
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(row.ids[-1:]) == "\n" and row.loss[-1] is False
    begin = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)])
    tokenizer.backend_tokenizer.post_processor = begin  # as Llama's and Gemma's: the template writes it too
    assert tokenizer("a")["input_ids"][0] == 0 and encode_prompt(tokenizer, messages[:-1]) == prompt


def test_templates_that_serve_another_text_than_they_train_or_refuse_are_findings(tokenizer: Any) -> None:
    begin = "<|im_start|>assistant\n' }}{% endif %}"
    tokenizer.chat_template = TEMPLATE.replace(begin, begin.replace("assistant", "helper"))
    finding = refused(tokenizer, tiny_messages(0))
    assert finding.rule == "chat.template_mismatch" and "e1" in finding.place
    with pytest.raises(FindingsError):
        encode_answer(tokenizer, tiny_messages(0)[:-1], "billing")
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    finding = refused(tokenizer, tiny_messages(0))
    assert (finding.rule, finding.place) == ("chat.template_refuses", "example e1")
    assert "roles must alternate" in finding.message


def talk(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


DIALOGUE = talk(
    ("system", "Help."), ("user", "a"), ("assistant", "one"), ("user", "b"), ("assistant", "two"), ("user", "c"),
    ("assistant", "three"),
)  # fmt: skip
DIALOGUE[2]["weight"], DIALOGUE[4]["weight"] = 0, 1


def test_a_turn_of_weight_zero_is_read_but_not_learned(tokenizer: Any) -> None:
    assert learned_parts(tokenizer, DIALOGUE) == ["two<|im_end|>", "three<|im_end|>"]
    assert "one<|im_end|>" in tokenizer.decode(encode_example(tokenizer, DIALOGUE, "e")[0].ids)


TOOLS = [{"type": "function", "function": {"name": "find_user", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "find_user", "arguments": '{"id": 7, "q": "a\\"b"}'}}
WITH_TOOLS: list[dict[str, Any]] = [
    {"role": "user", "content": "who is 7"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "Ann", "tool_call_id": "c1", "name": "find_user"},
    {"role": "assistant", "content": "It is Ann"},
]
TOOL_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_tools_and_their_calls_are_written_as_objects_or_a_finding_names_the_example(tokenizer: Any) -> None:
    for tools, place, lost in ((TOOLS, "example e1", "list of tools"), (None, "example e1, turn 2", "tool call")):
        finding = refused(tokenizer, WITH_TOOLS, tools)  # the template knows no tools
        assert (finding.rule, finding.place) == ("chat.content_lost", place) and lost in finding.message
    tokenizer.chat_template = TOOL_TEMPLATE
    assert learned_parts(tokenizer, WITH_TOOLS, TOOLS) == [
        '<call>{"name": "find_user", "arguments": {"id": 7, "q": "a\\"b"}}</call><|im_end|>',
        "It is Ann<|im_end|>",
    ]
    (row,) = encode_example(tokenizer, WITH_TOOLS, "e", TOOLS)
    assert '"name": "find_user", "parameters"' in tokenizer.decode(row.ids)
    prompt = encode_prompt(tokenizer, WITH_TOOLS[:-1], TOOLS)
    assert row.ids[: len(prompt)] == prompt
    result = {**WITH_TOOLS[2], "content": '{"name": "Änn"}'}
    tokenizer.chat_template = TOOL_TEMPLATE.replace("{{ m.content }}", "{{ m.content | tojson }}")  # as Llama 3.1's
    assert encode_example(tokenizer, [*WITH_TOOLS[:2], result, WITH_TOOLS[3]], "e", TOOLS)
    assert encode_answer(tokenizer, WITH_TOOLS[:1], WITH_TOOLS[1], TOOLS)[-1] == tokenizer.eos_token_id


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_rewrites_earlier_turns_gives_a_row_a_turn_as_serving_sees_it(tokenizer: Any) -> None:
    tokenizer.chat_template = THINKING
    rows = encode_example(tokenizer, DIALOGUE, "d")
    assert [r.id for r in rows] == ["d", "d"]
    for row, upto in zip(rows, (5, 7), strict=True):
        assert tokenizer.decode(row.ids) == render(tokenizer, DIALOGUE[:upto])
        learned = tokenizer.decode([t for t, on in zip(row.ids, row.loss, strict=True) if on])
        assert learned == "<think>\n\n</think>\n\n" + DIALOGUE[upto - 1]["content"] + "<|im_end|>"


def test_an_answer_ends_at_the_first_token_that_stops_generation(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("'<|im_end|>' + '\n'", "'<|endoftext|>' + '<|im_end|>' + '\n'")
    assert learned_parts(tokenizer, tiny_messages(0)) == ["billing<|endoftext|><|im_end|>"]
    tokenizer.end_token_ids = [0]  # as load_tokenizer reads it from a generation config
    assert end_ids(tokenizer) == {0, 2}
    assert learned_parts(tokenizer, tiny_messages(0)) == ["billing<|endoftext|>"]
