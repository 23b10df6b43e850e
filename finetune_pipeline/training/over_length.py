"""Examples longer than training.max_tokens: cut from the start of their longest user text, if the spec says so.

The system prompt says what to do and the answer is what is learned: neither is ever cut. The cut is made between tokens
and written back as text, so that what is trained on is still what the chat template makes of some conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.models.chat import Encoded, encode_example

_ROUNDS = 50


@dataclass(frozen=True, slots=True)
class Cut:
    """What was taken from the start of one user turn: its number among the messages, the text, and its tokens."""

    turn: int
    text: str
    tokens: int


def longest(rows: Sequence[Encoded]) -> int:
    """Tokens of the longest row."""
    return max((len(r.ids) for r in rows), default=0)


def cut_prompt(tokenizer: Any, example: Example, max_tokens: int) -> tuple[Example, list[Encoded], list[Cut]]:
    """(the example with shorter user texts, its rows, what was cut). Not all of a user text is ever cut.

    The rows may still be longer than max_tokens: system prompt and answers alone can be. Raises FindingsError as
    encode_example does.
    """
    rows = encode_example(tokenizer, example.messages, example.id, example.tools)
    lost: dict[int, list[int]] = {}
    exhausted: set[int] = set()
    for _ in range(_ROUNDS):
        over = longest(rows) - max_tokens
        sizes = {
            i: len(_ids(tokenizer, m["content"]))
            for i, m in enumerate(example.messages)
            if m["role"] == "user" and i not in exhausted
        }
        if over <= 0 or not sizes:
            break
        turn = max(sizes, key=lambda i: (sizes[i], -i))
        ids = _ids(tokenizer, example.messages[turn]["content"])
        drop, kept = _without_start(tokenizer, ids, min(over, len(ids) - 1))
        if not drop or len(kept) >= len(example.messages[turn]["content"]):
            exhausted.add(turn)
            continue
        lost.setdefault(turn, []).extend(ids[:drop])
        messages = [dict(m) for m in example.messages]
        messages[turn]["content"] = kept
        example = replace(example, messages=messages)
        rows = encode_example(tokenizer, example.messages, example.id, example.tools)
    cuts = [Cut(turn, tokenizer.decode(ids), len(ids)) for turn, ids in sorted(lost.items())]
    return example, rows, cuts


def _without_start(tokenizer: Any, ids: Sequence[int], drop: int) -> tuple[int, str]:
    """(how many tokens were really dropped, the text that is left, in which something is still to be read)."""
    while drop > 0:
        kept = tokenizer.decode(ids[drop:], clean_up_tokenization_spaces=False).lstrip("\ufffd")
        if kept.strip():
            return drop, str(kept)
        drop -= 1
    return 0, ""


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
