"""The grammar of a JSON schema, under which answers are decoded: at every step only tokens that can lead to a valid answer.

llguidance compiles it. It writes keys in the order of the schema, on one line. A schema with an unsupported keyword is refused,
naming the keyword. There are two exceptions: `uniqueItems`, whose violation counts as an invalid answer, and an unknown
`format`, since nothing here checks formats.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

_SPACING: Any = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Compact JSON, with an optional space after commas and colons."""
_NAME_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords whose value maps names, not keywords, to schemas."""
_VALUE_KEYWORDS = ("enum", "const", "default", "examples")
"""Keywords whose value is data, not a schema."""


class UnsupportedSchema(ValueError):
    """Raised if answers cannot be constrained to this schema with this tokenizer; the message says why."""


def grammar_of(schema: Mapping[str, object], vocabulary: Any = None) -> str:
    """Return the rules of a schema (draft 2020-12) for llguidance.

    Args:
        vocabulary: llguidance's form of a tokenizer, or None to look at the schema alone.

    Raises:
        UnsupportedSchema: llguidance does not support the schema or the tokenizer, or no answer can satisfy the schema.
    """
    import llguidance

    reason = ""
    for ignored_keywords in ({"uniqueItems"}, {"uniqueItems", "format"}):
        text = json.dumps(_without_keywords(schema, ignored_keywords))
        rules = str(llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_SPACING))
        refused, problems = llguidance.LLMatcher.validate_grammar_with_warnings(rules, vocabulary)
        if not refused:
            return rules
        reason = reason or " ".join(problems)
    raise UnsupportedSchema(f"decoding cannot be constrained to output.json_schema: {reason}")


def _without_keywords(schema: Any, keywords: Collection[str], keys_are_names: bool = False) -> Any:
    """Remove some keywords from a schema, at any depth. keys_are_names: the keys of this object are names, not keywords."""
    if isinstance(schema, list):
        return [_without_keywords(part, keywords) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    kept = {}
    for key, part in schema.items():
        if keys_are_names:
            kept[key] = _without_keywords(part, keywords)
        elif key not in keywords:
            kept[key] = part if key in _VALUE_KEYWORDS else _without_keywords(part, keywords, key in _NAME_KEYWORDS)
    return kept
