"""The prompts of the baseline, asked of an API model through an OpenAI-style endpoint: prediction rows like any model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.evaluation.generated import Answer
from finetune_pipeline.evaluation.openai_endpoint import Budget, Endpoint, answer_all
from finetune_pipeline.evaluation.prompts import Shelf, conversations
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.asking import EndpointSpec

API = "api_"
"""Begins the names of prompts that an API model answers."""
MOST_FAILED = 0.05
"""Share of failed rows from which a baseline of this model would be an unfair one."""


def ask_endpoint(
    told: EndpointSpec,
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
    """Ask every example in every way of `prompts` (by model name, evaluation.prompts.Prompt). Returns (prediction rows,
    facts {endpoint, known, spent, prompts {name: {rows, statuses, mean_prompt_tokens, mean_new_tokens}}}).

    gold: the right answer by example id. What the cache knows is not asked again, and each answer is kept as soon as it is
    there. A row that cannot be had is a failed one. Raises FindingsError where the endpoint cannot be used as the spec has
    it, or more than the share `most_failed` of the rows fail; EndpointError where it answers nothing. Nothing that came is
    lost by either.
    """
    endpoint, budget = _endpoint(told), Budget(told.max_requests, told.max_tokens)
    shelf = Shelf(train) if any(prompt.get("retrieved") for prompt in prompts.values()) else None
    asked = [
        (name, example, choices[0])
        for name, prompt in prompts.items()
        for example, choices in zip(examples, conversations(examples, prompt, shelf), strict=True)
    ]
    common = [told.url, told.model, dict(told.body), max_new_tokens]
    keys = [cache.key([*common, messages, example.tools]) for _, example, messages in asked] if cache else []
    answers: dict[int, Answer] = cache.find(keys) if cache else {}
    missing = [i for i in range(len(asked)) if i not in answers]
    if len(missing) > told.max_requests:
        raise _problem(
            "max_requests",
            f"{len(missing)} rows are to be asked, and max_requests allows {told.max_requests}",
            "raise it, or lower baseline.rows or the number of prompts",
        )

    def keep(place: int, answer: Answer) -> None:
        if cache:
            cache.keep({keys[missing[place]]: answer})

    came, spent = answer_all(
        endpoint,
        [asked[i][2] for i in missing],
        max_new_tokens,
        tools=[asked[i][1].tools for i in missing],
        budget=budget,
        keep=keep,
        stage=stage,
        name=endpoint.name,
    )
    answers |= dict(zip(missing, came, strict=True))
    failed = [answer.error for answer in answers.values() if answer.status == "error"]
    if len(failed) > most_failed * len(asked):
        raise _problem(
            "endpoint",
            f"{len(failed)} of {len(asked)} rows failed ({failed[0]}): too many for a fair baseline",
            "look at the endpoint and at its limits in task.yaml, and run again: the answers that came are kept",
        )
    rows = [_row(e.id, name, answers[i], gold[e.id]) for i, (name, e, _) in enumerate(asked)]
    return rows, {
        "endpoint": endpoint.name,
        "known": len(asked) - len(missing),
        "spent": spent.to_dict(),
        "prompts": {name: _told([row for row in rows if row["model"] == name]) for name in prompts},
    }


def _endpoint(told: EndpointSpec) -> Endpoint:
    try:
        return Endpoint(
            told.url, told.model, told.key_variable, timeout=told.timeout, concurrency=told.concurrency, body=told.body
        )
    except ValueError as error:
        raise _problem("endpoint", str(error), "correct it, or set the variable where the pipeline runs") from error


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


def _told(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "rows": len(rows),
        "statuses": {s: sum(r["status"] == s for r in rows) for s in ("ok", "truncated", "empty", "error")},
        "mean_prompt_tokens": round(sum(r["prompt_tokens"] for r in rows) / len(rows), 2),
        "mean_new_tokens": round(sum(r["new_tokens"] for r in rows) / len(rows), 2),
    }
