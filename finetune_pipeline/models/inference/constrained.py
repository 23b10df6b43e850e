"""Constrained decoding of JSON: at every step only tokens that can still lead to a valid answer are allowed.

llguidance turns the grammar of a schema (:mod:`finetune_pipeline.spec.json_grammar`) into a mask over tokens.
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
from finetune_pipeline.spec.json_grammar import UnsupportedSchema, grammar_of

CODE = "2"
"""Increase when the same model, prompt and schema give a different constrained answer than before."""
Complies = Callable[[Answer], bool]


class Grammar:
    """A JSON schema (draft 2020-12) compiled for one tokenizer. The keys of answers follow the order of its properties.

    identity: what determines a constrained answer besides the model, the prompt and its length; plain JSON. Raises
    UnsupportedSchema like :func:`.grammar_of`.
    """

    def __init__(self, schema: Mapping[str, object], tokenizer: Any) -> None:
        vocabulary = vocabulary_of(tokenizer)
        rules = grammar_of(schema, vocabulary)
        self.start = llguidance.LLMatcher(vocabulary, rules, log_level=0)
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

    def choose(self, logits: np.ndarray, ends: Collection[int]) -> tuple[int, np.ndarray]:
        """Append the most likely token that the schema allows. If none is possible, the answer ends, invalid.

        Args:
            logits: Of the next token, [vocabulary].
            ends: Tokens that end an answer, the only control tokens ever allowed.

        Returns:
            The token, and the logits with minus infinity for every token that could not be chosen.
        """
        scores = np.where(self._allowed(len(logits), ends), logits, -np.inf)
        token = int(scores.argmax())
        if scores[token] == -np.inf:
            token = min(ends)
            scores[token] = 0.0
        if token not in ends:
            self._matcher.consume_token(token)
        return token, scores

    def _allowed(self, size: int, ends: Collection[int]) -> np.ndarray:
        """Return the mask of tokens that may come next, [size]; the model may have more tokens than its tokenizer.
        llguidance's mask excludes control tokens; those that end an answer are added once it is complete."""
        allowed = np.zeros(size, dtype=bool)
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")[:size]
        allowed[: len(bits)] = bits
        allowed[list(ends)] = self._matcher.is_accepting()
        return allowed & (not self._matcher.is_error())


@lru_cache(maxsize=1)
def vocabulary_of(tokenizer: Any) -> Any:
    """Load a tokenizer into llguidance (about half a second for 50,000 tokens). Raises UnsupportedSchema."""
    from llguidance.hf import from_tokenizer  # imports transformers

    try:
        return from_tokenizer(tokenizer)
    except Exception as error:  # the library raises all kinds of errors
        raise UnsupportedSchema(f"the tokenizer cannot be read for constrained decoding: {error}") from error
