"""Constrained decoding of JSON: at every step only tokens that can still lead to a valid answer are allowed.

llguidance turns the schema into a mask over tokens. It writes keys in the order of the schema, on one line. A schema with an
unsupported keyword is refused, naming the keyword. There are two exceptions: `uniqueItems`, whose violation counts as an
invalid answer, and an unknown `format`, since nothing here checks formats.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llguidance
import numpy as np

from finetune_pipeline.models.inference.generated import Answer

CODE = "2"
"""Increase when the same model, prompt and schema give a different constrained answer than before."""
_SPACING: Any = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Compact JSON, with an optional space after commas and colons."""
Complies = Callable[[Answer], bool]
_NAME_KEYWORDS = ("properties", "patternProperties", "$defs", "definitions")
"""Keywords whose value maps names, not keywords, to schemas."""
_VALUE_KEYWORDS = ("enum", "const", "default", "examples")
"""Keywords whose value is data, not a schema."""


class UnsupportedSchema(ValueError):
    """Raised if answers cannot be constrained to this schema with this tokenizer; the message says why."""


class Grammar:
    """A JSON schema (draft 2020-12) compiled for one tokenizer. The keys of answers follow the order of its properties.

    identity: what determines a constrained answer besides the model, the prompt and its length; plain JSON. Raises
    UnsupportedSchema if llguidance does not support the schema or the tokenizer, or no answer can satisfy the schema.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: Any) -> None:
        self.start, rules = _matcher(schema, _vocabulary(tokenizer))
        self.identity = [CODE, importlib.metadata.version("llguidance"), rules, json.dumps(schema)]

    def begin(self) -> ConstrainedAnswer:
        """Start an empty answer."""
        return ConstrainedAnswer(self.start.deep_copy())


@dataclass(frozen=True)
class Restriction:
    """A grammar for the answers that do not comply when written freely."""

    grammar: Grammar
    complies: Complies


class ConstrainedAnswer:
    """One answer under a grammar, chosen token by token."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def choose(self, logits: np.ndarray, ends: Collection[int]) -> int:
        """Append the most likely token that the schema allows, and return it. If none is possible, the answer ends, invalid.
        logits: of the next token, [vocabulary]. ends: tokens that end an answer, the only control tokens ever allowed."""
        scores = np.where(self._allowed(len(logits), ends), logits, -np.inf)
        token = int(scores.argmax())
        if scores[token] == -np.inf:
            return min(ends)
        if token not in ends:
            self._matcher.consume_token(token)
        return token

    def _allowed(self, size: int, ends: Collection[int]) -> np.ndarray:
        """Return the mask of tokens that may come next, [size]; the model may have more tokens than its tokenizer.
        llguidance's mask excludes control tokens; those that end an answer are added once it is complete."""
        allowed = np.zeros(size, dtype=bool)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[:size]
        allowed[: len(bits)] = bits
        allowed[list(ends)] = self._matcher.is_accepting()
        return allowed & (not self._matcher.is_error())


@lru_cache(maxsize=1)
def _vocabulary(tokenizer: Any) -> Any:
    """Load a tokenizer into llguidance (about half a second for 50,000 tokens). Raises UnsupportedSchema."""
    from llguidance.hf import from_tokenizer  # imports transformers

    try:
        return from_tokenizer(tokenizer)
    except Exception as error:  # the library raises all kinds of errors
        raise UnsupportedSchema(f"the tokenizer cannot be read for constrained decoding: {error}") from error


def _matcher(schema: Mapping[str, Any], vocabulary: Any) -> tuple[Any, str]:
    """Return (the matcher of a schema, its rules as text). Raises UnsupportedSchema."""
    reason = ""
    for ignored_keywords in ({"uniqueItems"}, {"uniqueItems", "format"}):
        text = json.dumps(_without_keywords(schema, ignored_keywords))
        rules = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_SPACING)
        refused, problems = llguidance.LLMatcher.validate_grammar_with_warnings(rules, vocabulary)
        if not refused:
            return llguidance.LLMatcher(vocabulary, rules, log_level=0), rules
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
