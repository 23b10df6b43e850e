"""Answers conversations with a base model and a prompt of the baseline, as in the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event, Lock
from typing import Any

from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.evaluation.calibration import ReleasedProbability
from finetune_pipeline.evaluation.token_probabilities import field_probabilities
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.serving.loaded_model import check_decodable, check_length, stopping
from finetune_pipeline.serving.logprobs import ScoredToken, chosen_label, written_tokens


@dataclass(frozen=True)
class ServedPrompt:
    """The prompt to serve.

    Attributes:
        name: For clients and in the logs: TASK:VERSION.
        model: Folder of the base model.
        folder: As StoredPrompt.write wrote it.
        system_prompt: That of the task, which clients may send; the prompt may replace it.
        precision: That of the evaluation (evaluation.precision).
        json_schema: Of its answers, which clients may ask for.
        probability: Of its answers, as released; None without.
    """

    name: str
    model: Path
    folder: Path
    system_prompt: str
    max_new_tokens: int
    precision: str = "serving"
    json_schema: Mapping[str, Any] | None = None
    probability: ReleasedProbability | None = None


class LoadedPrompt:
    """A base model with its prompt in memory. Like :class:`.loaded_model.LoadedModel`."""

    def __init__(self, served: ServedPrompt) -> None:
        from transformers.utils.logging import disable_progress_bar

        from finetune_pipeline.evaluation.answering import Answerer
        from finetune_pipeline.evaluation.stored_prompt import read_stored_prompt, restriction_of, stored_retriever

        disable_progress_bar()  # the operator's terminal is for requests and errors
        self.served, self._stored = served, read_stored_prompt(served.folder)
        self._retriever = stored_retriever(served.folder)
        self._answerer = Answerer(served.model, precision=served.precision)
        schema = self._stored.decoded_schema or served.json_schema
        self._restriction = restriction_of(schema, self._answerer.tokenizer) if schema is not None else None
        self.always_constrained = self._stored.mode == "restricted"
        self.labels = self._stored.scored_labels or (served.probability.labels if served.probability else [])
        self._model = self._answerer.model  # loaded now, not with the first request
        self.turn = Lock()

    def answer(
        self,
        messages: Sequence[Message],
        max_new_tokens: int | None,
        gone: Event,
        constrained: bool = False,
        alternatives: int | None = None,
    ) -> Answer:
        """Answer a conversation. Raises like :meth:`.loaded_model.LoadedModel.answer`."""
        from finetune_pipeline.evaluation.predict import encode_labels
        from finetune_pipeline.evaluation.prompts import conversations
        from finetune_pipeline.evaluation.stored_prompt import restricted_answer
        from finetune_pipeline.models.chat import encode_prompt

        prompt_text = self.served.system_prompt
        system: list[Message] = [{"role": "system", "content": prompt_text}] if prompt_text else []
        turns: list[Message] = [*system, *messages, {"role": "assistant", "content": ""}]
        (choices,) = conversations([Example("", turns)], self._stored.prompt, self._retriever)
        limit = min(max_new_tokens or self.served.max_new_tokens, self.served.max_new_tokens)
        encoded = (encode_prompt(self._answerer.tokenizer, choice) for choice in choices)
        index, prompt = self._answerer.first_fitting(encoded, limit)
        check_length(len(prompt), limit, self._answerer.context_length)
        labels = None
        if self.labels:
            labels = encode_labels(self._answerer.tokenizer, [choices[index]], self.labels)
        restriction = self._restriction if self.always_constrained or constrained else None
        check_decodable(constrained, restriction)
        with stopping(self._model, gone):
            (reply,) = self._answerer.answers(
                [prompt], labels, limit, 1,
                stage="serve", name=self.served.name, restriction=restriction, alternatives=alternatives or 0,
            )  # fmt: skip
        if reply.status == "error":
            raise RuntimeError(reply.error)
        if not (self.always_constrained or restriction):
            return reply
        return replace(restricted_answer(reply, self._stored.labels), label_scores=reply.label_scores)

    def tokens(self, answer: Answer, alternatives: int) -> list[ScoredToken]:
        """Return the tokens of an answer with their probabilities; a label that was chosen by its likelihood is one token."""
        if labels := self._stored.scored_labels:
            return chosen_label(dict(zip(labels, answer.label_scores, strict=True)), answer.text, alternatives)
        return written_tokens(answer, self._answerer.tokenizer)

    def fields(self, answer: Answer) -> Mapping[str, float]:
        """Return the probability of each field of a JSON answer; empty of another."""
        return field_probabilities(answer, self._answerer.tokenizer)
