"""Values of strangers, made fit to be shown in a message."""

from __future__ import annotations

import re
from typing import Any

from finetune_pipeline.data.scrubbing import scrub_text

_PLAIN = re.compile(r"[a-zA-Z_]{1,40}")


def quoted(value: Any, limit: int = 60) -> str:
    """A value of a stranger as it may be shown in a message: scrubbed, cut, with odd characters escaped."""
    if isinstance(value, str):
        if not _PLAIN.fullmatch(value):
            value = scrub_text(value[:1000])
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    return {dict: "an object", list: "a list", bool: "true/false", type(None): "null"}.get(
        type(value), repr(value)[:limit]
    )


def key_name(key: Any) -> str:
    """A key of a stranger, without the quotes."""
    return quoted(key)[1:-1] if isinstance(key, str) else quoted(key)


def keys_shown(row: dict[Any, Any], limit: int = 12) -> str:
    """The keys of a row for a message, sorted."""
    keys = sorted(str(k) for k in row)
    return (", ".join(quoted(k) for k in keys[:limit]) or "none") + (", …" if len(keys) > limit else "")
