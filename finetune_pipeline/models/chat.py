"""Chat messages to tokens, with the loss on the assistant's tokens only; training text equals serving text.

The template is the model's own. What the model is asked to produce is found by rendering: the tokens of the prompt (with
the generation prompt) must be a true prefix of the tokens of prompt and answer, else training would teach a text that
serving never sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.findings import Finding, FindingsError

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as tokens. loss[i]: whether token i is to be learned (predicted from those before it)."""

    id: str
    ids: list[int]
    loss: list[bool]


def _render(tokenizer: Any, messages: Sequence[Message], generation: bool) -> list[int]:
    ids = tokenizer.apply_chat_template(
        list(messages), add_generation_prompt=generation, tokenize=True, return_dict=True
    )["input_ids"]
    return list(ids)


def encode_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """Token ids of `messages` (ending with a user turn) followed by the generation prompt, as serving sends them."""
    return _render(tokenizer, messages, True)


def encode(tokenizer: Any, messages: Sequence[Message], example_id: str = "") -> tuple[list[int], list[bool]]:
    """(ids, loss mask) of a conversation; loss on every assistant turn, its end-of-turn token included.

    What the template writes after the end-of-turn token (a line break in ChatML) carries no loss: generation has stopped
    by then. Raises FindingsError if a prompt is no true prefix of its conversation.
    """
    full = _render(tokenizer, messages, False)
    loss = [False] * len(full)
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = _render(tokenizer, messages[:i], True)
        upto = full if i == len(messages) - 1 else _render(tokenizer, messages[: i + 1], False)
        if full[: len(upto)] != upto or upto[: len(prompt)] != prompt or len(upto) <= len(prompt):
            raise FindingsError([_mismatch(tokenizer, prompt, full, i, example_id)])
        end = _end_of_turn(tokenizer, upto, len(prompt))
        loss[len(prompt) : end] = [True] * (end - len(prompt))
    return full, loss


def _mismatch(tokenizer: Any, prompt: list[int], full: list[int], turn: int, example_id: str) -> Finding:
    at = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), min(len(prompt), len(full)))
    return Finding(
        "chat.template_mismatch",
        "error",
        f"example {example_id or '?'}, turn {turn + 1}",
        f"the chat template gives another text when it prompts than when it trains: they part at token {at} "
        f"({tokenizer.decode(prompt[at : at + 4])!r} against {tokenizer.decode(full[at : at + 4])!r})",
        "use a chat template whose generation prompt is the beginning of an assistant turn",
    )


def encode_answer(tokenizer: Any, prompt_messages: Sequence[Message], answer: str) -> list[int]:
    """Token ids of `answer` after that prompt, in context, up to and including the end-of-turn token.

    Raises FindingsError as :func:`encode` does.
    """
    prompt = encode_prompt(tokenizer, prompt_messages)
    full = _render(tokenizer, [*prompt_messages, {"role": "assistant", "content": answer}], False)
    if full[: len(prompt)] != prompt or len(full) <= len(prompt):
        raise FindingsError([_mismatch(tokenizer, prompt, full, len(prompt_messages), "")])
    return full[len(prompt) : _end_of_turn(tokenizer, full, len(prompt))]


def _end_of_turn(tokenizer: Any, ids: list[int], start: int) -> int:
    """Where the turn that begins at `start` ends: behind its last EOS token, or at the end when it has none."""
    end = len(ids)
    if tokenizer.eos_token_id in ids[start:]:
        while ids[end - 1] != tokenizer.eos_token_id:
            end -= 1
    return end


def encode_all(tokenizer: Any, examples: Sequence[Any]) -> tuple[list[Encoded], list[Finding]]:
    """Every example (`.id`, `.messages`) as :class:`Encoded`; those that cannot be, as findings."""
    done, found = [], []
    for example in examples:
        try:
            ids, loss = encode(tokenizer, example.messages, example.id)
        except FindingsError as error:
            found.extend(error.findings)
            continue
        done.append(Encoded(example.id, ids, loss))
    return done, found
