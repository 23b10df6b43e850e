"""Chat to tokens: loss on the assistant's tokens and their end only, and training text equal to serving text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import encode, encode_all, encode_answer, encode_prompt
from finetune_pipeline_tests.tiny_model import TEMPLATE, make_tiny_tokenizer, tiny_messages


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    from transformers import AutoTokenizer

    make_tiny_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def _learned(tokenizer: Any, messages: list[dict[str, str]]) -> list[str]:
    ids, loss = encode(tokenizer, messages)
    runs: list[list[int]] = []
    for i, (token, learned) in enumerate(zip(ids, loss, strict=True)):
        if learned:
            if not runs or not loss[i - 1]:
                runs.append([])
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


def test_loss_is_on_the_answer_and_its_end_though_pad_is_eos(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert _learned(tokenizer, tiny_messages(0)) == ["billing<|im_end|>"]


def test_every_assistant_turn_is_learned(tokenizer: Any) -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "two"},
    ]
    assert _learned(tokenizer, messages) == ["one<|im_end|>", "two<|im_end|>"]


def test_training_text_is_serving_text_token_for_token(tokenizer: Any) -> None:
    messages = tiny_messages(3)
    ids, loss = encode(tokenizer, messages)
    prompt = encode_prompt(tokenizer, messages[:-1])
    assert ids[: len(prompt)] == prompt and not any(loss[: len(prompt)])
    assert tokenizer.decode(ids) == tokenizer.apply_chat_template(messages, tokenize=False)
    answer = encode_answer(tokenizer, messages[:-1], messages[-1]["content"])
    assert [t for t, learned in zip(ids, loss, strict=True) if learned] == answer
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[-1:]) == "\n" and loss[-1] is False


def test_a_template_that_trains_on_another_text_than_it_serves_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace(
        "'<|im_start|>assistant\n' }}{% endif %}", "'<|im_start|>helper\n' }}{% endif %}"
    )
    with pytest.raises(FindingsError) as error:
        encode(tokenizer, tiny_messages(0), "e1")
    finding = error.value.findings[0]
    assert finding.rule == "chat.template_mismatch" and "e1" in finding.place
    with pytest.raises(FindingsError):
        encode_answer(tokenizer, tiny_messages(0)[:-1], "billing")


def test_an_answer_without_end_has_loss_to_its_last_token(tokenizer: Any) -> None:
    tokenizer.chat_template = TEMPLATE.replace("message['content'] + '<|im_end|>'", "message['content'] + ''")
    ids, loss = encode(tokenizer, tiny_messages(0))
    assert tokenizer.eos_token_id not in [t for t, learned in zip(ids, loss, strict=True) if learned]


def test_rows_that_cannot_be_encoded_lose_no_others(tokenizer: Any) -> None:
    from finetune_pipeline.data.examples import Example

    tokenizer.chat_template = TEMPLATE.replace(
        "{{ '<|im_start|>assistant\n' }}{% endif %}",
        "{{ '<|im_start|>' + ('helper' if messages[-1]['content'] == 'odd' else 'assistant') + '\n' }}{% endif %}",
    )
    odd = [{"role": "user", "content": "odd"}, {"role": "assistant", "content": "billing"}]
    encoded, found = encode_all(tokenizer, [Example("bad", odd), Example("good", tiny_messages(0))])
    assert [e.id for e in encoded] == ["good"]
    assert [(f.rule, f.place) for f in found] == [("chat.template_mismatch", "example bad, turn 2")]
