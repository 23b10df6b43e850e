"""Answers conversations with a simple model, which needs a language model and torch only if it reads texts with one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from finetune_pipeline.data.examples import Message
from finetune_pipeline.evaluation.calibration import ReleasedProbability
from finetune_pipeline.evaluation.simple_models import load_simple_model
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.serving.logprobs import ScoredToken, chosen_label


@dataclass(frozen=True)
class ServedSimple:
    """The simple model to serve.

    Attributes:
        name: For clients and in the logs: TASK:VERSION.
        folder: As SimpleModel.save wrote it.
        system_prompt: That of the task, which clients may send; the model does not read it.
        json_schema: Of its answers, which clients may ask for.
        probability: Of its answers, as released; None without.
    """

    name: str
    folder: Path
    system_prompt: str
    json_schema: Mapping[str, Any] | None = None
    probability: ReleasedProbability | None = None


class LoadedSimple:
    """A simple model in memory. Like :class:`.loaded_model.LoadedModel`. labels: those with a probability, else empty."""

    def __init__(self, served: ServedSimple) -> None:
        self.served = served
        self._model = load_simple_model(served.folder)
        self.labels = self._model.labels
        self.always_constrained = True  # its answers have one form, whatever a client asks for
        self.turn = Lock()

    def answer(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None,
        gone: Event,
        constrained: bool = False,
        alternatives: int | None = None,
    ) -> Answer:
        """Answer a conversation. An answer has no tokens, so neither the length limit nor constrained decoding applies. Where they
        are asked for or calibrated, it has the log-probability of each of `labels`, or the probability of each field."""
        text = "\n".join(str(message["content"]) for message in messages if message["role"] == "user")
        (answer,) = self._model.predict([text])
        is_scored = alternatives is not None or self.served.probability is not None
        (shares,) = (self._model.probabilities([text]) if is_scored else None) or [{}]
        (fields,) = (self._model.field_probabilities([text]) if is_scored else None) or [{}]
        scores = [math.log(share) if share > 0 else -math.inf for share in shares.values()]
        status = "ok" if answer.strip() else "empty"
        return Answer(text=answer, status=status, label_scores=scores, field_shares=fields)

    def tokens(self, answer: Answer, alternatives: int) -> list[ScoredToken] | None:
        """Return the label of an answer as one token with its probability; None if the model has no probabilities."""
        if not self.labels:
            return None
        return chosen_label(dict(zip(self.labels, answer.label_scores, strict=True)), answer.text, alternatives)

    def fields(self, answer: Answer) -> Mapping[str, float]:
        """Return the probability of each field of a JSON answer; empty of another."""
        return answer.field_shares
