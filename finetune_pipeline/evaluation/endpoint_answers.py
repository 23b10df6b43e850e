"""Answers of models behind an OpenAI-style endpoint: of served models, and of API models to the baseline's prompts.

An endpoint reports no digest of its model. So names of trained models contain their version
(:mod:`finetune_pipeline.spec.evaluation`), the endpoint must list the name, and the cache's keys hold address, name and request.
"""

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_pipeline.data.documents import Passage
from finetune_pipeline.data.examples import Example, Message, Tool
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.endpoint_client import Endpoint, EndpointError, decoding, models_of
from finetune_pipeline.evaluation.openai_endpoint import Spent, TooManyRows, ask
from finetune_pipeline.evaluation.prediction_facts import ApiUsage, SetFacts
from finetune_pipeline.evaluation.predictions import PredictionRow, prediction_row
from finetune_pipeline.evaluation.prompts import Retriever, conversations
from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.baseline import ApiModelSpec, ChatEndpointSpec
from finetune_pipeline.spec.evaluation import ServedModelsSpec


class EndpointAnswerer:
    """One model at an endpoint. subject: names it in errors. folder: a model whose tokenizer renders tool calls as text. schema:
    the endpoint is asked to decode answers under it.

    Raises:
        JobError: The endpoint cannot be used as configured.
    """

    def __init__(
        self,
        spec: ChatEndpointSpec,
        model: str,
        folder: Path,
        cache: AnswerCache | None,
        subject: str,
        max_tokens: int | None = None,
        schema: Mapping[str, object] | None = None,
    ) -> None:
        self.folder, self.cache, self.spent = folder, cache, Spent()
        self._subject, self._max_tokens = subject, max_tokens
        self.seconds = {"load": 0.0, "answer": 0.0}
        try:
            self.endpoint = decoding(Endpoint.of(spec, model), schema)
        except ValueError as error:
            fix = "correct the address, or set the key where the pipeline runs"
            raise JobError(f"{subject}: {error}\nfix: {fix}") from error

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    def answers(
        self,
        prompts: Sequence[Sequence[Message]],
        tools: Sequence[Sequence[Tool] | None],
        max_new_tokens: int,
        stage: str,
        name: str,
    ) -> list[Answer]:
        """One answer per conversation, in order, without label likelihoods. Raises JobError if nothing can be answered."""
        began = time.monotonic()
        try:
            result = ask(
                self.endpoint,
                prompts,
                max_new_tokens,
                tools=tools,
                max_tokens=self._max_tokens,
                cache=self.cache,
                stage=stage,
                name=name,
            )
        except EndpointError as error:
            raise JobError(f"{self._subject}: {error}") from error
        self.spent = result.spent
        if self._max_tokens is not None:  # the next set's requests count, too
            self._max_tokens = max(self._max_tokens - self.spent.tokens, 0)
        if unsent := sum(answer.error.startswith("budget") for answer in result.answers):
            fix = "raise max_tokens and run again: the answers received so far are kept"
            raise JobError(
                f"{self._subject}: max_tokens is spent, with {unsent} of {len(prompts)} rows not sent\nfix: {fix}"
            )
        if result.known:
            say(f"{stage}: {name}: {result.known} of {len(prompts)} answers come from the cache")
        self.seconds["answer"] += time.monotonic() - began
        return result.answers


def served_answerer(
    spec: ServedModelsSpec,
    served: str,
    folder: Path,
    cache: AnswerCache | None,
    spent: int,
    schema: Mapping[str, object] | None = None,
) -> EndpointAnswerer:
    """One of our models, served under a name. spent: tokens that other models of the same run have used.

    Raises:
        JobError: The endpoint is unreachable or does not list the name.
    """
    remaining_tokens = None if spec.max_tokens is None else max(spec.max_tokens - spent, 0)
    answerer = EndpointAnswerer(spec, served, folder, cache, "evaluation.endpoint", remaining_tokens, schema)
    try:
        listed = models_of(answerer.endpoint)
    except EndpointError as error:
        fix = "correct the address or the key, or start the server"
        raise JobError(f"evaluation.endpoint: {error}\nfix: {fix}") from error
    if served not in listed:
        raise JobError(
            f"evaluation.endpoint: {answerer.endpoint.name} is not among the models it lists: {', '.join(listed[:20])}\n"
            f"fix: serve {folder} under the name {served}"
        )
    return answerer


def hosted_answerer(
    hosted: HostedModel,
    folder: Path,
    cache: AnswerCache | None,
    concurrency: int | None,
    schema: Mapping[str, object] | None = None,
) -> EndpointAnswerer:
    """A model hosted by its training service under a unique name. concurrency: None keeps the service's."""
    spec = hosted.endpoint if concurrency is None else hosted.endpoint.model_copy(update={"concurrency": concurrency})
    subject = f"the model trained by {hosted.trainer}"
    return EndpointAnswerer(spec, hosted.model, folder, cache, subject, schema=schema)


MAX_FAILED = 0.05
"""Share of failed rows from which a baseline would be unfair."""


def ask_endpoint(
    spec: ApiModelSpec,
    prompts: Mapping[str, Prompt],
    examples: Sequence[Example],
    train: Sequence[Example],
    max_new_tokens: int,
    gold: Mapping[str, str],
    *,
    most_failed: float = MAX_FAILED,
    cache: AnswerCache | None = None,
    passages: Sequence[Passage] = (),
    stage: str,
) -> tuple[list[PredictionRow], ApiUsage]:
    """Ask every example with every prompt. Unanswered rows count as failed.

    Args:
        prompts: By model name.
        most_failed: Largest tolerated share of failed rows.

    Returns:
        Prediction rows, and the usage.

    Raises:
        FindingsError: The endpoint cannot be used as configured, or too many rows fail.
        EndpointError: The endpoint answers nothing.
    """
    retriever = Retriever(train, passages)
    questions = [
        (name, example, choices[0])
        for name, prompt in prompts.items()
        for example, choices in zip(examples, conversations(examples, prompt, retriever), strict=True)
    ]
    try:
        endpoint = Endpoint.of(spec, spec.model)
        result = ask(
            endpoint,
            [messages for _, _, messages in questions],
            max_new_tokens,
            tools=[example.tools for _, example, _ in questions],
            max_requests=spec.max_requests,
            max_tokens=spec.max_tokens,
            cache=cache,
            stage=stage,
            name=endpoint.name,
        )
    except TooManyRows as error:
        fix = "raise it, or lower baseline.rows or the number of prompts"
        raise _problem("max_requests", str(error), fix) from error
    except ValueError as error:
        raise _problem("endpoint", str(error), "correct it, or set the variable where the pipeline runs") from error
    failed = [answer.error for answer in result.answers if answer.status == "error"]
    if len(failed) > most_failed * len(questions):
        raise _problem(
            "endpoint",
            f"{len(failed)} of {len(questions)} rows failed ({failed[0]}): too many for a fair baseline",
            "check the endpoint and its limits in task.yaml, and run again: the cache keeps the answers received so far",
        )
    by_prompt = [(name, e.id, answer) for (name, e, _), answer in zip(questions, result.answers, strict=True)]
    return [prediction_row(i, name, answer, gold[i]) for name, i, answer in by_prompt], ApiUsage(
        endpoint=endpoint.name,
        known=result.known,
        spent=result.spent,
        prompts={
            name: SetFacts.over([answer for prompt, _, answer in by_prompt if prompt == name]) for name in prompts
        },
    )


def _problem(key: str, message: str, fix: str) -> FindingsError:
    where = "baseline.endpoint" if key == "endpoint" else f"baseline.endpoint.{key}"
    return FindingsError([Finding("baseline.endpoint", "error", f"task.yaml: {where}", message, fix)])
