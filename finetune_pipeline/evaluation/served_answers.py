"""Answers of models that are served behind an OpenAI-style endpoint, through the cache of answers.

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
from finetune_pipeline.evaluation.generated import Answer
from finetune_pipeline.evaluation.openai_endpoint import (
    Budget,
    Endpoint,
    EndpointError,
    Message,
    Spent,
    answer_all,
    models_of,
)
from finetune_pipeline.models.tokenizing import load_tokenizer
from finetune_pipeline.training.faults import JobError
from finetune_pipeline.training.reporting import say

CODE = "1"


class ServedAnswerer:
    """One served model. folder: the model that is to be served, for its tokenizer and for telling people what to serve.

    spent: what it cost. seconds: {"load", "answer"}, as of the other engines.
    Raises JobError when the endpoint cannot be had or does not list the name.
    """

    def __init__(
        self, told: Mapping[str, Any], served: str, folder: Path, cache: AnswerCache | None, used: int = 0
    ) -> None:
        self.folder, self.cache, self.spent = folder, cache, Spent()
        self.seconds = {"load": 0.0, "answer": 0.0}
        limit = told.get("max_tokens")
        self._budget = Budget(tokens=max(limit - used, 0) if limit is not None else None)
        try:
            self.endpoint = Endpoint(
                told["url"],
                served,
                told.get("key_variable"),
                timeout=told["timeout"],
                concurrency=told["concurrency"],
                tries=told["tries"],
            )
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
        """One answer per conversation, in order; label likelihoods are not to be had there.

        Raises JobError when nothing can be answered there.
        """
        keys = [self._key(messages, offered, max_new_tokens) for messages, offered in zip(prompts, tools, strict=True)]
        known = self.cache.find(keys) if self.cache else {}
        if known:
            say(f"{stage}: {name}: {len(known)} of {len(prompts)} answers are known already")
        missing = [i for i in range(len(prompts)) if i not in known]

        def keep(place: int, answer: Answer) -> None:
            if self.cache:
                self.cache.keep({keys[missing[place]]: answer})

        began = time.monotonic()
        try:
            asked, self.spent = answer_all(
                self.endpoint,
                [prompts[i] for i in missing],
                max_new_tokens,
                tools=[tools[i] for i in missing],
                budget=self._budget,
                keep=keep,
                stage=stage,
                name=name,
            )
        except EndpointError as error:
            raise JobError(f"evaluation.endpoint: {error}") from error
        self.seconds["answer"] += time.monotonic() - began
        by_place = known | dict(zip(missing, asked, strict=True))
        return [by_place[i] for i in range(len(prompts))]

    def _key(self, messages: Sequence[Message], tools: Any, max_new_tokens: int) -> bytes:
        if self.cache is None:
            return b""
        one = [CODE, "endpoint", self.endpoint.url, self.endpoint.model, max_new_tokens]
        return self.cache.key([*one, [dict(m) for m in messages], list(tools) if tools else None])
