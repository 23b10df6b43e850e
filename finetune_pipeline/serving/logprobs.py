"""The log-probabilities of an answer in OpenAI's format: of its tokens, or of a label that was chosen and not written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.models.inference.generated import Answer

_LEAST = -9999.0
"""OpenAI's number for a token that is next to impossible; JSON has no infinity."""


@dataclass(frozen=True)
class ScoredToken:
    """A token, its log-probability, and the most likely tokens at its place, itself among them.

    Attributes:
        content: UTF-8 bytes, which may be part of a character; a text if the tokenizer does not say which bytes.
    """

    content: bytes | str
    log_probability: float
    alternatives: Sequence[tuple[bytes | str, float]] = field(default_factory=list)


def written_tokens(answer: Answer, tokenizer: Any) -> list[ScoredToken]:
    """Return the tokens of an answer that a language model wrote, without the one that ends it."""
    from finetune_pipeline.models.chat import end_ids

    read, ends = _reader(tokenizer), end_ids(tokenizer)
    places = zip(
        answer.new_ids, answer.log_probabilities, answer.alternatives or [[] for _ in answer.new_ids], strict=True
    )
    return [
        ScoredToken(read(token), score, [(read(other), of_other) for other, of_other in likeliest])
        for token, score, likeliest in places
        if token not in ends
    ]


def chosen_label(scores: Mapping[str, float], label: str, alternatives: int) -> list[ScoredToken]:
    """Return a label as one token, with its probability among the allowed labels. scores: log-likelihoods by label."""
    if label not in scores:
        return []
    highest = max(scores.values())
    total = highest + math.log(sum(math.exp(score - highest) for score in scores.values()))
    ordered = sorted(((name, score - total) for name, score in scores.items()), key=lambda pair: -pair[1])
    likeliest = [(name.encode(), score) for name, score in ordered[:alternatives]]
    return [ScoredToken(label.encode(), scores[label] - total, likeliest)]


def logprobs(tokens: Sequence[ScoredToken]) -> dict[str, object]:
    """Return the field `logprobs` of a choice."""

    def entry(content: bytes | str, score: float) -> dict[str, object]:
        is_known = isinstance(content, bytes)
        text = content.decode("utf-8", "replace") if isinstance(content, bytes) else content
        return {"token": text, "logprob": max(score, _LEAST), "bytes": list(content) if is_known else None}

    content = [
        {**entry(token.content, token.log_probability), "top_logprobs": [entry(*pair) for pair in token.alternatives]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _reader(tokenizer: Any) -> Any:
    """Return a function from a token to its bytes; to its text if the tokenizer cannot be read."""
    from finetune_pipeline.models.inference.constrained import vocabulary_of
    from finetune_pipeline.spec.json_grammar import UnsupportedSchema

    try:
        vocabulary = vocabulary_of(tokenizer)
    except UnsupportedSchema:
        return lambda token: tokenizer.decode([token])
    return lambda token: vocabulary.decode_bytes([token])
