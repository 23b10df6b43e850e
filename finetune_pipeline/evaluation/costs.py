"""What training and using the candidate cost: time, memory, tokens, and prices of requests."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.predictions import by_model
from finetune_pipeline.training.facts import Measured


class RequestTokens(Facts, frozen=True, kw_only=True):
    """Mean tokens per request."""

    prompt: float
    answer: float


class RequestPrice(Facts, frozen=True, kw_only=True):
    """Dollars per 1,000 requests to one model. evaluated: whether the candidate was compared with this API model."""

    where: str
    how: str
    dollars: float
    date: str
    evaluated: bool = False


class SimpleCost(Facts, frozen=True, kw_only=True):
    """What a simple model costs here. `fit_seconds`: of a CPU, the reading of texts by an encoder included. `p50`, `p95`:
    milliseconds of one call alone. `megabytes`: on disk, its encoder included."""

    fit_seconds: float | None
    p50: float
    p95: float
    megabytes: float


class TeacherMonth(Facts, frozen=True, kw_only=True):
    """Dollars a month of the teacher, asked once for each call, and of the fine-tuned model on the cheapest machines, always on.

    is_known: whether `calls` is advise.calls_per_month, or a usual number.
    """

    calls: int
    is_known: bool
    teacher: float
    student: float


class Cost(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Time, memory and tokens of training and using the candidate, and requests by the price list.

    Attributes:
        steps: What each step's process measured.
        saved_share: The share of the base model's tokens per request that the fine-tuned model saves; None if either is unknown,
            negative if it needs more.
        month: Dollars of serving advise.calls_per_month, by kind of model (serving_costs.month_by_kind).
        teacher_month: None without a teacher whose price is known, or where nothing was trained here.
        simple: By name of the simple model.
        milliseconds: Mean time of an answer to the sealed test on this machine, in batches, by language model; only of those that
            were asked, and not answered from the cache.
    """

    steps: dict[str, Measured] = {}
    seconds: float | None = None
    tokens: dict[str, RequestTokens] = {}
    saved_share: float | None = None
    requests: list[RequestPrice] = []
    month: dict[str, float] = {}
    teacher_month: TeacherMonth | None = None
    simple: dict[str, SimpleCost] = {}
    milliseconds: dict[str, float] = {}


def costs(predictions: Sequence[Mapping[str, Any]], steps: Mapping[str, Measured]) -> Cost:
    """Return the costs without prices and simple models. steps: those that measured no time are left out."""
    timed = {name: step for name, step in steps.items() if step.seconds is not None}
    tokens = {
        model: RequestTokens(
            prompt=sum(row["prompt_tokens"] for row in rows) / len(rows),
            answer=sum(row["new_tokens"] for row in rows) / len(rows),
        )
        for model, rows in by_model(predictions).items()
    }
    before, after = (
        tokens[name].prompt + tokens[name].answer if name in tokens else 0 for name in ("base", "candidate")
    )
    return Cost(
        steps=timed,
        seconds=sum(step.seconds or 0 for step in timed.values()),
        tokens=tokens,
        saved_share=1 - after / before if before and after else None,
    )
