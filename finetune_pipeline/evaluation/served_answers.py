"""Answers of models that are served behind an OpenAI-style endpoint.

What a name stands for is the endpoint's affair: a digest cannot be asked for. So names of trained models hold their version
(:mod:`finetune_pipeline.spec.engines`), the endpoint must list the name, and answers are kept by address, name and request.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.openai_endpoint import (
    Budget,
    Endpoint,
    EndpointError,
    Message,
    Spent,
    ask,
    models_of,
)
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.engines import ServedModelsSpec


class ServedAnswerer:
    """One served model.

    Args:
        spec: The endpoint.
        served: The model's name there.
        folder: The model that is to be served: for its tokenizer, and for telling people what to serve.
        cache: Answers that are known.
        used: Tokens that other models of the same run have spent.

    Raises:
        JobError: The endpoint cannot be had or does not list the name.
    """

    def __init__(
        self, spec: ServedModelsSpec, served: str, folder: Path, cache: AnswerCache | None, used: int = 0
    ) -> None:
        self.folder, self.cache, self.spent = folder, cache, Spent()
        self.seconds = {"load": 0.0, "answer": 0.0}
        self._budget = Budget(tokens=None if spec.max_tokens is None else max(spec.max_tokens - used, 0))
        try:
            self.endpoint = Endpoint.of(spec, served)
            listed = models_of(self.endpoint)
        except (ValueError, EndpointError) as error:
            raise JobError(
                f"evaluation.endpoint: {error}\nfix: correct the address or the key, or start the server"
            ) from error
        if served not in listed:
            raise JobError(
                f"evaluation.endpoint: {self.endpoint.name} is not among the models it lists: {', '.join(listed[:20])}\n"
                f"fix: serve {folder} under the name {served}"
            )

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    def answers(
        self,
        prompts: Sequence[Sequence[Message]],
        tools: Sequence[Sequence[Mapping[str, Any]] | None],
        max_new_tokens: int,
        stage: str,
        name: str,
    ) -> list[Answer]:
        """One answer per conversation, in order, without label likelihoods.

        Raises:
            JobError: Nothing can be answered there.
        """
        began = time.monotonic()
        try:
            result = ask(
                self.endpoint,
                prompts,
                max_new_tokens,
                tools=tools,
                budget=self._budget,
                cache=self.cache,
                stage=stage,
                name=name,
            )
        except EndpointError as error:
            raise JobError(f"evaluation.endpoint: {error}") from error
        if result.known:
            say(f"{stage}: {name}: {result.known} of {len(prompts)} answers are known already")
        self.spent = result.spent
        self.seconds["answer"] += time.monotonic() - began
        return result.answers
