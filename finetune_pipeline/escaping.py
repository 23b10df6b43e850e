"""Escapes characters of foreign texts that terminals obey, that reorder text, or that no file can hold. Every output uses it:
terminal, findings, files, pages, Dagster and MLflow."""

import re
from collections.abc import Mapping
from typing import Any

# Control characters except line ends and tabs; bidi overrides and isolates; line separators; lone surrogates; tags
_UNPRINTABLE = re.compile(
    "[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff\ufff9-\ufffb\U000e0001]|\r(?!\n)"
)


def printable(text: str) -> str:
    r"""Replace each such character by its escape as in JSON, such as ``\u001b``, so that JSON text keeps its value."""
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def printable_value(value: Any) -> Any:
    """Apply `printable` to every text in a value of mappings and lists, keys included."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable_value(key): printable_value(item) for key, item in value.items()}
    return [printable_value(item) for item in value] if isinstance(value, list | tuple) else value


def _escape(hit: re.Match[str]) -> str:
    units = hit[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
