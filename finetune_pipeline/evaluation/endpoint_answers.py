"""The prompts of the baseline, asked of an API model through an OpenAI-style endpoint: prediction rows like any model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.openai_endpoint import Budget, Endpoint, TooManyRows, ask
from finetune_pipeline.evaluation.prompts import Shelf, conversations
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.spec.baseline import ApiModelSpec

API = "api_"
"""Begins the names of prompts that an API model answers."""
MOST_FAILED = 0.05
"""Share of failed rows from which a baseline of this model would be an unfair one."""


def ask_endpoint(
    spec: ApiModelSpec,
    prompts: Mapping[str, Mapping[str, Any]],
    examples: Sequence[Example],
    train: Sequence[Example],
    max_new_tokens: int,
    gold: Mapping[str, str],
    *,
    most_failed: float = MOST_FAILED,
    cache: AnswerCache | None = None,
    stage: str,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ask every example with every prompt. A row that cannot be had is a failed one.

    Args:
        spec: The API model.
        prompts: evaluation.prompts.Prompt as JSON, by model name.
        examples: Who is asked.
        train: Where prompts retrieve their examples.
        max_new_tokens: Longest answer.
        gold: The right answer by example id.
        most_failed: Share of failed rows that is still fair.
        cache: Answers that are known; those that come are kept in it at once.
        stage: For the progress line.

    Returns:
        Prediction rows, and the facts {endpoint, known, spent, prompts {name: {rows, statuses, mean_prompt_tokens,
        mean_new_tokens}}}.

    Raises:
        FindingsError: The endpoint cannot be used as the spec has it, or too many rows fail.
        EndpointError: It answers nothing.
    """
    shelf = Shelf(train) if any(prompt.get("retrieved") for prompt in prompts.values()) else None
    asked = [
        (name, example, choices[0])
        for name, prompt in prompts.items()
        for example, choices in zip(examples, conversations(examples, prompt, shelf), strict=True)
    ]
    try:
        endpoint = Endpoint.of(spec, spec.model)
        result = ask(
            endpoint,
            [messages for _, _, messages in asked],
            max_new_tokens,
            tools=[example.tools for _, example, _ in asked],
            budget=Budget(spec.max_requests, spec.max_tokens),
            cache=cache,
            stage=stage,
            name=endpoint.name,
        )
    except TooManyRows as error:
        raise _problem(
            "max_requests", str(error), "raise it, or lower baseline.rows or the number of prompts"
        ) from error
    except ValueError as error:
        raise _problem("endpoint", str(error), "correct it, or set the variable where the pipeline runs") from error
    failed = [answer.error for answer in result.answers if answer.status == "error"]
    if len(failed) > most_failed * len(asked):
        raise _problem(
            "endpoint",
            f"{len(failed)} of {len(asked)} rows failed ({failed[0]}): too many for a fair baseline",
            "look at the endpoint and at its limits in task.yaml, and run again: the answers that came are kept",
        )
    rows = [_row(e.id, name, answer, gold[e.id]) for (name, e, _), answer in zip(asked, result.answers, strict=True)]
    return rows, {
        "endpoint": endpoint.name,
        "known": result.known,
        "spent": result.spent.to_dict(),
        "prompts": {name: _summary([row for row in rows if row["model"] == name]) for name in prompts},
    }


def _problem(key: str, message: str, fix: str) -> FindingsError:
    where = "baseline.endpoint" if key == "endpoint" else f"baseline.endpoint.{key}"
    return FindingsError([Finding("baseline.endpoint", "error", f"task.yaml: {where}", message, fix)])


def _row(example_id: str, name: str, answer: Answer, gold: str) -> dict[str, Any]:
    return {
        "example_id": example_id,
        "model": name,
        "gold": gold,
        "text": answer.text,
        "status": answer.status,
        "error": answer.error,
        "label_scores": [],
        "new_tokens": answer.new_tokens,
        "prompt_tokens": answer.prompt_tokens,
    }


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "statuses": {s: sum(r["status"] == s for r in rows) for s in ("ok", "truncated", "empty", "error")},
        "mean_prompt_tokens": round(sum(r["prompt_tokens"] for r in rows) / len(rows), 2),
        "mean_new_tokens": round(sum(r["new_tokens"] for r in rows) / len(rows), 2),
    }
