"""The answer of any engine to one prompt. Imports no torch: assets and the command line use this."""

from __future__ import annotations

from dataclasses import dataclass, field

COMPARED_TOKENS = 512
"""Tokens whose logits the merge parity test computes at once; more if a single row has more."""


@dataclass
class Answer:
    """status: ok, empty, truncated (no end-of-turn within max_new_tokens), error (no answer; `error` says why).

    label_scores: log-likelihood in nats of each label with its end-of-turn token; empty without labels, on error, and
    if the engine does not provide them. new_ids: the generated tokens, end-of-turn included, if the engine returns them.
    log_probabilities: of each generated token, in nats; under a grammar, of the distribution over the tokens that it allows.
    alternatives: the most likely tokens at each place, as (token, log-probability), if they were asked for.
    restricted: the answer under a grammar, if one was asked for and this one does not comply.
    field_shares: of a JSON answer that is not written token by token: the probability of each field's value by its dotted path, 0
    of one without; empty if the model has none.
    """

    text: str = ""
    status: str = "ok"
    error: str = ""
    label_scores: list[float] = field(default_factory=list)
    new_tokens: int = 0
    prompt_tokens: int = 0
    new_ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)
    restricted: Answer | None = None
    field_shares: dict[str, float] = field(default_factory=dict)
