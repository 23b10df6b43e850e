"""Loads a model and answers conversations as in the evaluation."""

from __future__ import annotations

import contextlib
from asyncio import CancelledError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from finetune_pipeline.data.examples import Message
from finetune_pipeline.evaluation.calibration import ReleasedProbability
from finetune_pipeline.evaluation.token_probabilities import field_probabilities
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.serving.logprobs import ScoredToken, chosen_label, written_tokens
from finetune_pipeline.serving.requests import BadRequest


@dataclass(frozen=True)
class ServedModel:
    """The model to serve.

    Attributes:
        name: For clients and in the logs: TASK:VERSION.
        model: Folder of the model, see models.identity.Served.
        adapter: Folder of the adapter, or None.
        precision: That of the evaluation (evaluation.precision).
        json_schema: Of its answers, which clients may ask for.
        constrained: Whether all answers are decoded under it, as in the evaluation.
        probability: Of its answers, as released; None without.
    """

    name: str
    model: Path
    adapter: Path | None
    system_prompt: str
    max_new_tokens: int
    precision: str = "serving"
    json_schema: Mapping[str, Any] | None = None
    constrained: bool = False
    probability: ReleasedProbability | None = None


class LoadedModel:
    """A model in memory, for ``finetune serve`` and for MLflow's registered models.

    Callers of `answer` must hold `turn`: one answer is generated at a time.

    Attributes:
        classes: Of a classifier, else empty.
        labels: Those of an answer's `label_scores`.
        always_constrained: Whether all answers are decoded under the schema.
    """

    def __init__(self, served: ServedModel) -> None:
        from transformers.utils.logging import disable_progress_bar

        from finetune_pipeline.evaluation.stored_prompt import restriction_of
        from finetune_pipeline.models.chat import load_tokenizer
        from finetune_pipeline.models.loading import load_for_prediction, pick_device

        self.served = served
        disable_progress_bar()  # the operator's terminal is for requests and errors
        self._model = load_for_prediction(served.model, pick_device(), served.adapter, served.precision)
        self._tokenizer = load_tokenizer(served.model)
        self.classes: list[str] = getattr(self._model, "classes", [])
        self.labels = self.classes or (served.probability.labels if served.probability else [])
        self.always_constrained = served.constrained
        schema = served.json_schema
        self._restriction = restriction_of(schema, self._tokenizer) if schema is not None else None
        self.turn = Lock()

    def answer(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None,
        gone: Event,
        constrained: bool = False,
        alternatives: int | None = None,
    ) -> Answer:
        """Answer a conversation (without its system turn) greedily, with at most the length that the evaluation allowed. A
        classifier's answer has the log-probability of each of its `classes`.

        Args:
            constrained: Decode this answer under the schema.
            alternatives: How many of the most likely tokens to keep at each place; None: its `tokens` are not asked for.

        Raises:
            BadRequest: Prompt and answer do not fit into the model's context, the client has `gone`, or no decoder keeps to the
                schema.
            FindingsError: The chat template refuses the turns.
            RuntimeError: The model fails.
        """
        from finetune_pipeline.evaluation.predict import encode_labels
        from finetune_pipeline.models.chat import encode_prompt
        from finetune_pipeline.models.inference.generation import generate_and_score

        turns: list[Message] = [{"role": "system", "content": self.served.system_prompt}, *messages]
        limit = min(max_new_tokens or self.served.max_new_tokens, self.served.max_new_tokens)
        scored = [[[number] for number in range(len(self.classes))]] if self.classes else None
        if self.labels and not self.classes:
            scored = encode_labels(self._tokenizer, [turns], self.labels)
        prompt = encode_prompt(self._tokenizer, turns)
        check_length(len(prompt), limit, getattr(self._model.config.get_text_config(), "max_position_embeddings", None))
        restriction = self._restriction if constrained or self.served.constrained else None
        check_decodable(constrained, restriction)
        with stopping(self._model, gone):
            (reply,) = generate_and_score(
                self._model, self._tokenizer, [prompt], scored, limit, 1,
                stage="serve", name=self.served.name, restriction=restriction, alternatives=alternatives or 0,
            )  # fmt: skip
        if reply.status == "error":
            raise RuntimeError(reply.error)
        return reply.restricted or reply

    def tokens(self, answer: Answer, alternatives: int) -> list[ScoredToken]:
        """Return the tokens of an answer with their probabilities; of a classifier, its label as one token."""
        if self.classes:
            return chosen_label(dict(zip(self.classes, answer.label_scores, strict=True)), answer.text, alternatives)
        return written_tokens(answer, self._tokenizer)

    def fields(self, answer: Answer) -> Mapping[str, float]:
        """Return the probability of each field of a JSON answer; empty of another."""
        return field_probabilities(answer, self._tokenizer)


def check_decodable(asked: bool, restriction: Any) -> None:
    """Raise BadRequest if a client has asked for answers under the schema, and there is none, or no decoder keeps to it."""
    if asked and restriction is None:
        raise BadRequest(
            "answers cannot be decoded under this task's schema: omit 'response_format'", "response_format"
        )


def check_length(prompt: int, limit: int, context: int | None) -> None:
    """Raise BadRequest if the tokens of prompt and answer do not fit into the model's context."""
    if context and prompt + limit > context:
        message = f"the prompt has {prompt} tokens and the answer up to {limit}: more than the model's {context}"
        raise BadRequest(message, "messages", code="context_length_exceeded")


@contextlib.contextmanager
def stopping(model: Any, gone: Event) -> Iterator[None]:
    """Stop the model before its next token when the client has `gone`. Raises BadRequest then, and RuntimeError if memory ran
    out."""

    def stop_if_gone(*_: object) -> None:
        if gone.is_set():
            raise CancelledError  # no Exception, which would count as a failed row and be repeated

    try:
        with model.register_forward_pre_hook(stop_if_gone):
            yield
    except CancelledError:
        raise BadRequest("the client has closed the connection", status=499, code="cancelled") from None
    except MemoryError as error:
        raise RuntimeError(str(error)) from None
