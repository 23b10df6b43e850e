"""Constrained decoding of JSON: at every step only tokens that can still lead to an answer that complies with the schema.

llguidance turns the schema into a mask over tokens. It writes keys in the order of the schema, on one line. A schema with a
keyword it has no rule for is refused by name, but for two of them: `uniqueItems`, whose breach counts as an answer out of
form like any other, and a `format` it does not know, as nothing here checks formats.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

import llguidance
import numpy as np

CODE = "2"
"""Increase when the same model, prompt and schema give a different constrained answer than before."""
_SPACING: Any = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Compact JSON, with a blank behind commas and colons or none."""
_NAMES = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = ("enum", "const", "default", "examples")


class UnsupportedSchema(ValueError):
    """Answers cannot be constrained to this schema with this tokenizer; the message says why."""


class Grammar:
    """A JSON schema, ready to choose tokens of one tokenizer.

    Attributes:
        identity: What a constrained answer follows from besides the model, the prompt and its length; plain JSON.

    Args:
        schema: JSON schema (draft 2020-12). The order of its properties is that of the answers' keys.

    Raises:
        UnsupportedSchema: The schema uses what llguidance has no rule for, nothing can comply with it, or the tokenizer
            is of a kind it cannot read.
    """

    def __init__(self, schema: Mapping[str, Any], tokenizer: Any) -> None:
        self.start, rules = _matcher(schema, _vocabulary(tokenizer))
        self.identity = [CODE, importlib.metadata.version("llguidance"), rules, json.dumps(schema)]

    def begin(self) -> ConstrainedAnswer:
        """An answer without any token yet."""
        return ConstrainedAnswer(self.start.deep_copy())


class ConstrainedAnswer:
    """One answer under a grammar, chosen token by token."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def choose(self, logits: np.ndarray, ends: Collection[int]) -> int:
        """The most likely token the schema allows next; the answer grows by it. Where none leads on, the answer ends, out of
        form.

        Args:
            logits: Of the next token, [vocabulary].
            ends: Tokens that end an answer; they are allowed where it is complete, all other control tokens never.
        """
        scores = np.where(self._allowed(len(logits), ends), logits, -np.inf)
        token = int(scores.argmax())
        if scores[token] == -np.inf:
            return min(ends)
        if token not in ends:
            self._matcher.consume_token(token)
        return token

    def _allowed(self, size: int, ends: Collection[int]) -> np.ndarray:
        """Which of the model's tokens may come next, [size]; it may have more of them than its tokenizer.

        llguidance's mask has no control tokens; those that end an answer are added where it is complete.
        """
        allowed = np.zeros(size, dtype=bool)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[:size]
        allowed[: len(bits)] = bits
        allowed[list(ends)] = self._matcher.is_accepting()
        return allowed & (not self._matcher.is_error())


@lru_cache(maxsize=1)
def _vocabulary(tokenizer: Any) -> Any:
    """llguidance's reading of a tokenizer, about half a second for 50,000 tokens. Raises UnsupportedSchema."""
    from llguidance.hf import from_tokenizer  # imports transformers

    try:
        return from_tokenizer(tokenizer)
    except Exception as error:  # the library raises what it likes
        raise UnsupportedSchema(f"the tokenizer cannot be read for constrained decoding: {error}") from error


def _matcher(schema: Mapping[str, Any], vocabulary: Any) -> tuple[Any, str]:
    """(the matcher of a schema, its rules as text). Raises UnsupportedSchema."""
    why = ""
    for left_out in ({"uniqueItems"}, {"uniqueItems", "format"}):
        text = json.dumps(_without(schema, left_out))
        rules = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_SPACING)
        refused, problems = llguidance.LLMatcher.validate_grammar_with_warnings(rules, vocabulary)
        if not refused:
            return llguidance.LLMatcher(vocabulary, rules, log_level=0), rules
        why = why or " ".join(problems)
    raise UnsupportedSchema(f"output.json_schema cannot be kept to while decoding: {why}")


def _without(schema: Any, words: Collection[str], names: bool = False) -> Any:
    """A schema without some keywords, at any depth. names: the keys of this object are names, not keywords."""
    if isinstance(schema, list):
        return [_without(part, words) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: part if key in _VALUES and not names else _without(part, words, key in _NAMES and not names)
        for key, part in schema.items()
        if names or key not in words
    }
