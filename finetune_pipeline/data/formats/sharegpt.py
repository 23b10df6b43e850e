"""ShareGPT's chat format: `conversations` of `from` and `value`, its own names of roles, the system turn beside them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from finetune_pipeline.data.formats.base import RawFormat, Turns, first_key, register
from finetune_pipeline.data.formats.messages import read_messages
from finetune_pipeline.spec import TaskSpec

_CHATS = ("conversations", "conversation")


@register
class ShareGpt(RawFormat):
    """``{"conversations": [{"from": "human", "value": "…"}, …]}``"""

    name, order = "sharegpt", 20
    documented = "`conversations` of `from`, `value`"
    row_keys = (*_CHATS, "system")

    def recognises(self, keys: Collection[str]) -> bool:
        return first_key(keys, _CHATS) is not None

    def read(self, row: dict[str, Any], spec: TaskSpec, turns: Turns) -> set[str]:
        read = read_messages(row, first_key(row, _CHATS) or "", spec, turns, loose=True)
        if row.get("system") and not any(m["role"] == "system" for m in turns.messages):
            read.add("system")
            text = turns.text_of(row, "system", "system", note=False)
            turns.messages[:0] = [] if text is None else [{"role": "system", "content": text}]
            turns.whole = turns.whole and text is not None
        return read
