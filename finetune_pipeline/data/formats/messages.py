"""OpenAI's chat format: a list of turns, with tools and weights."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from finetune_pipeline.data.formats.base import RawFormat, Turns, chosen_text, register, text_of
from finetune_pipeline.data.formats.chat_turns import read_chat
from finetune_pipeline.data.formats.tool_calls import unpacked
from finetune_pipeline.spec import TaskSpec


def read_messages(row: dict[str, Any], key: str, spec: TaskSpec, place: str, turns: Turns, loose: bool) -> set[str]:
    """Read the list of turns under `key`; a preference row's better answer ends a chat that has none.

    Args:
        row: The raw row.
        key: Where the turns are.
        spec: The task, for its other names of roles.
        place: ``file:line``.
        turns: Filled.
        loose: ShareGPT's names of roles are known too.
    """
    turns.chat = True
    read_chat(unpacked(row[key]), key, place, turns, spec.data.roles, loose)
    if not turns.whole or turns.messages[-1]["role"] not in ("user", "tool") or "chosen" not in row:
        return {key}
    text = text_of({"chosen": chosen_text(row["chosen"])}, "chosen", "chosen", place, turns.findings)
    turns.whole = text is not None
    if text is not None:
        turns.messages.append({"role": "assistant", "content": text})
    return {key, "chosen"}


@register
class Messages(RawFormat):
    """``{"messages": [{"role": "user", "content": "…"}, …]}``"""

    name, order = "messages", 10
    keys, described = "`messages`", "`messages`: OpenAI chat"
    documented = (
        "`messages`: OpenAI chat, with `tools`, `tool_calls`, `weight`, and content as text or as a list of text parts"
    )
    row_keys = ("messages", "tools", "chosen", "rejected")
    renames = ("messages",)
    fields = ("messages",)

    def recognises(self, keys: Collection[str]) -> bool:
        return "messages" in keys

    def read(self, row: dict[str, Any], spec: TaskSpec, place: str, turns: Turns) -> set[str]:
        return read_messages(row, "messages", spec, place, turns, loose=False)
