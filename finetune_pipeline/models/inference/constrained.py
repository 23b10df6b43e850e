"""Constrained decoding of JSON: at every step only tokens that can still lead to an answer that complies with the schema.

llguidance turns the schema into a mask over tokens. It writes keys in the order of the schema, on one line. A schema with a
keyword it has no rule for is refused by name, but for two of them: repetitions are found in the text
(:class:`JsonRepeats`), and a `format` it does not know is left out, as nothing here checks formats.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

import llguidance
import numpy as np
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from finetune_pipeline.data.answer_rules import canonical

CODE = "1"
"""Raised when the same model, prompt and schema give another constrained answer than before."""
_SPACING: Any = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
"""Compact JSON, with a blank behind commas and colons or none."""
_NAMES = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = ("enum", "const", "default", "examples")


class UnsupportedSchema(ValueError):
    """Answers cannot be held to this schema with this tokenizer; the message says why, for people."""


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
        self.vocabulary = _vocabulary(tokenizer)
        self.repeats = JsonRepeats(schema)
        self.start, rules = _matcher(schema, self.vocabulary)
        self.identity = [CODE, importlib.metadata.version("llguidance"), rules, json.dumps(schema)]

    def begin(self) -> ConstrainedAnswer:
        """An answer without any token yet."""
        return ConstrainedAnswer(self)


class ConstrainedAnswer:
    """One answer under a grammar, chosen token by token."""

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._matcher = grammar.start.deep_copy()
        self._ids: list[int] = []

    def choose(self, logits: np.ndarray, ends: Collection[int]) -> int:
        """The most likely token the schema allows next; the answer grows by it. Where none leads on, the answer ends, out of
        form.

        Args:
            logits: Of the next token, [vocabulary].
            ends: Tokens that end an answer; they are allowed where it is complete, all other control tokens never.
        """
        scores = np.where(self._allowed(len(logits), ends), logits, -np.inf)
        while scores[token := int(scores.argmax())] > -np.inf:
            if token in ends:
                return token
            if not self._grammar.repeats.within(self._text([*self._ids, token])):
                self._matcher.consume_token(token)
                self._ids.append(token)
                return token
            scores[token] = -np.inf
        return min(ends)

    def _text(self, ids: list[int]) -> str:
        text: str = self._grammar.vocabulary.decode_bytes(ids).decode("utf-8", "surrogateescape")
        return text

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


_SCALAR = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[^\s"\[\]{},:]+')
_CLOSED_TYPES: dict[str, list[Any]] = {"boolean": [True, False], "null": [None]}


class _Cut(Exception):
    """The text ends here, within a value."""


class _Repeated(Exception):
    """A key or an item is there twice, or cannot but become so."""


class JsonRepeats:
    """Finds what JSON under one schema must not repeat.

    Args:
        schema: JSON schema (draft 2020-12). Of `anyOf` and `oneOf` every branch counts: an array is held to `uniqueItems`
            when one of them says so.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema
        resource = DRAFT202012.create_resource(schema)
        self._resolver = Registry().with_resource(resource.id() or "", resource).resolver(resource.id() or "")

    def within(self, text: str) -> bool:
        """Whether a text repeats something, or can only go on by doing so.

        Args:
            text: The beginning of JSON that complies with the schema but for repetitions; bytes of a character that is not
                all there are surrogates, as Python's `surrogateescape` writes them.

        Returns:
            True also where nesting is too deep or a number too long to be read.
        """
        try:
            self._value(text, 0, [self._schema])
        except _Cut:
            return False
        except (_Repeated, ValueError, RecursionError):
            return True
        return False

    def _value(self, text: str, at: int, schemas: Iterable[Any]) -> tuple[Any, int]:
        """The value that begins at `at`, and where it ends. Raises _Cut and _Repeated."""
        if text[at : at + 1] == "{":
            return self._object(text, at + 1, self._parts(schemas))
        if text[at : at + 1] == "[":
            return self._array(text, at + 1, self._parts(schemas))
        scalar = _SCALAR.match(text, at)
        if not scalar or (scalar.end() == len(text) and text[at] != '"'):  # a number at the end may go on
            raise _Cut
        return json.loads(scalar[0]), scalar.end()

    def _object(self, text: str, at: int, parts: list[Mapping[str, Any]]) -> tuple[dict[str, Any], int]:
        members: dict[str, Any] = {}
        while text[at := _behind_blanks(text, at)] != "}":
            if text[at] == ",":
                at = _behind_blanks(text, at + 1)
            key, at = self._value(text, at, [])
            if key in members:
                raise _Repeated
            at = _behind_blanks(text, _behind_blanks(text, at) + 1)  # the colon
            members[key], at = self._value(text, at, [_property(part, key) for part in parts])
        return members, at + 1

    def _array(self, text: str, at: int, parts: list[Mapping[str, Any]]) -> tuple[list[Any], int]:
        distinct = any(part.get("uniqueItems") is True for part in parts)
        items: list[Any] = []
        seen: set[str] = set()
        at = _behind_blanks(text, at)
        while text[at] != "]":
            schemas = [schema for part in parts if (schema := _item(part, len(items))) is not None]
            try:
                if items:
                    at = _behind_blanks(text, at + 1)  # the comma
                value, at = self._value(text, at, schemas)
            except _Cut:
                if distinct and self._exhausted(schemas, seen, text[at:].lstrip(", ")):
                    raise _Repeated from None
                raise
            if distinct and canonical(value) in seen:
                raise _Repeated
            seen.add(canonical(value))
            items.append(value)
            at = _behind_blanks(text, at)
        return items, at + 1

    def _exhausted(self, schemas: Iterable[Any], seen: set[str], begun: str) -> bool:
        """Whether all values that begin as this item does are in the array already."""
        values = self._closed(schemas)
        if values is None or not all(value is None or isinstance(value, str | int) for value in values):
            return False  # objects, lists and floats can be written in several ways
        beginning = begun.encode("utf-8", "surrogateescape")
        left = [json.dumps(value, ensure_ascii=False).encode() for value in values if canonical(value) not in seen]
        return not any(value.startswith(beginning) for value in left)

    def _parts(self, schemas: Iterable[Any]) -> list[Mapping[str, Any]]:
        """Schemas, and all those they refer to or are composed of."""
        parts: list[Mapping[str, Any]] = []
        waiting = list(schemas)
        while waiting:
            part = waiting.pop()
            if isinstance(part, Mapping) and not any(part is other for other in parts):
                parts.append(part)
                waiting += [branch for word in ("allOf", "anyOf", "oneOf") for branch in part.get(word, ())]
                if "$ref" in part:
                    waiting.append(self._resolver.lookup(part["$ref"]).contents)
        return parts

    def _closed(self, schemas: Iterable[Any]) -> list[Any] | None:
        """All values of schemas that list them; None where one of them does not, or there is none."""
        values: list[Any] = []
        for schema in schemas:
            listed = self._listed(schema)
            if listed is None:
                return None
            values += listed
        return values or None

    def _listed(self, schema: Any) -> list[Any] | None:
        if not isinstance(schema, Mapping):
            return None
        if "enum" in schema:
            return list(schema["enum"])
        if "const" in schema:
            return [schema["const"]]
        if "$ref" in schema:
            return self._listed(self._resolver.lookup(schema["$ref"]).contents)
        if branches := schema.get("anyOf") or schema.get("oneOf"):
            return self._closed(branches)
        if "allOf" in schema:
            return next((values for part in schema["allOf"] if (values := self._listed(part)) is not None), None)
        return _CLOSED_TYPES.get(schema["type"]) if isinstance(schema.get("type"), str) else None


def _behind_blanks(text: str, at: int) -> int:
    """The place of the next character that is no blank. Raises _Cut at the end of the text."""
    while text[at : at + 1].isspace():
        at += 1
    if at >= len(text):
        raise _Cut
    return at


def _property(part: Mapping[str, Any], name: str) -> Any:
    declared = part.get("properties", {}).get(name)
    if declared is not None:
        return declared
    matching = (schema for pattern, schema in part.get("patternProperties", {}).items() if re.search(pattern, name))
    return next(matching, part.get("additionalProperties"))


def _item(part: Mapping[str, Any], place: int) -> Any:
    first = part.get("prefixItems", [])
    return first[place] if place < len(first) else part.get("items")
