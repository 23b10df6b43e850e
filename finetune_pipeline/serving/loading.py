"""Loads the champion, of whatever kind, to answer conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event, Lock
from typing import Protocol

from finetune_pipeline.data.examples import Message
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.serving.loaded_model import LoadedModel, ServedModel
from finetune_pipeline.serving.logprobs import ScoredToken
from finetune_pipeline.serving.prompted_model import LoadedPrompt, ServedPrompt
from finetune_pipeline.serving.simple_model import LoadedSimple, ServedSimple

AnyServed = ServedModel | ServedPrompt | ServedSimple


class Loaded(Protocol):
    """A model in memory. Callers of `answer` must hold `turn`: one answer is made at a time.

    Attributes:
        labels: Those of an answer's `label_scores`.
        always_constrained: Whether all answers are decoded under the schema of the task, as in the evaluation.
    """

    turn: Lock
    labels: list[str]
    always_constrained: bool

    @property
    def served(self) -> AnyServed: ...

    def answer(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None,
        gone: Event,
        constrained: bool = False,
        alternatives: int | None = None,
    ) -> Answer:
        """Answer a conversation without its system turn. constrained: decode the answer under the JSON schema of the task;
        alternatives: how many of the most likely tokens to keep at each place, None if `tokens` will not be asked for."""

    def tokens(self, answer: Answer, alternatives: int) -> list[ScoredToken] | None:
        """Return the tokens of an answer with their log-probabilities; None if its answers have none."""

    def fields(self, answer: Answer) -> Mapping[str, float]:
        """Return the probability of each field of a JSON answer by its dotted path, token_probabilities.FORM among them; empty
        without."""


def load(served: AnyServed) -> Loaded:
    """Load a model into memory."""
    if isinstance(served, ServedSimple):
        return LoadedSimple(served)
    if isinstance(served, ServedPrompt):
        return LoadedPrompt(served)
    return LoadedModel(served)
