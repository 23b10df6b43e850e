"""Makes findings about raw rows, and makes untrusted values safe to print."""

import re
from functools import lru_cache
from typing import Any

from finetune_pipeline.data.scrub import Finder, find_spans, scrub_text
from finetune_pipeline.findings import Finding, Severity, listed

RAW_SHOWN = 2000
"""Characters of a row that the quarantine shows."""
_PLAIN = re.compile(r"[a-zA-Z_]{1,40}")


def row_finding(rule: str, place: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    """Make a finding about a raw row. rule: without its ``data.``."""
    return Finding(f"data.{rule}", severity, place, message, fix)


def quoted(value: Any, limit: int = 60, find: Finder = find_spans) -> str:
    """Make an untrusted value safe for messages: scrub and truncate it, and escape odd characters."""
    if isinstance(value, str):
        if not _PLAIN.fullmatch(value):
            value = scrub_text(value[:1000], find)
        return repr(value if len(value) <= limit else value[: limit - 1] + "…")
    kinds = {dict: "an object", list: "a list", bool: "true/false", type(None): "null"}
    return kinds.get(type(value), repr(value)[:limit])


@lru_cache(maxsize=4096, typed=True)  # the rows of a file have the same keys
def key_name(key: Any) -> str:
    """Make a key safe for messages, without quotes."""
    return quoted(key)[1:-1] if isinstance(key, str) else quoted(key)


def keys_shown(row: dict[Any, Any]) -> str:
    """List the first keys of a row for a message, sorted."""
    return listed([quoted(key) for key in sorted(map(str, row))[:13]]) or "none"
