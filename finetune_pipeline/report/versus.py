"""Compares the fine-tuned model with the API model of baseline.endpoint: quality, paired and with intervals, and price."""

import datetime
from dataclasses import dataclass

from finetune_pipeline.evaluation.decisions import Comparison
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.rivals import API_MODEL, ScoredBaselines, best_api_prompt
from finetune_pipeline.evaluation.wording import (
    counted,
    dollars,
    level,
    number,
    points,
    points_range,
    prompt_name,
)
from finetune_pipeline.planning.prices import PriceList, newest_price
from finetune_pipeline.planning.serving_costs import Call, Traffic, break_even, call_price, in_use, machine_cost
from finetune_pipeline.spec.model import TaskSpec

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class Side:
    """One of the two models on the sealed test.

    Attributes:
        value: In the deciding metric.
        call: Mean tokens of a request.
        thousand: Dollars per 1,000 requests by offer; empty if the list has no price.
        month: Dollars per month for the traffic, likewise.
    """

    name: str
    value: float | None
    interval: Interval
    call: Call
    thousand: dict[str, float]
    month: dict[str, float]


@dataclass(frozen=True)
class Versus:
    """Both sides, and the paired gain of the fine-tuned model. break_even: sentences. warnings: missing or old prices."""

    task: str
    rows: int
    metric: str
    confidence: float
    tuned: Side
    api: Side
    gain: float | None
    gain_interval: Interval
    p: float | None
    conclusion: str
    break_even: list[str]
    warnings: list[str]


def versus(
    spec: TaskSpec, evaluation: EvaluationResult, prices: PriceList, calls: int | None, today: datetime.date
) -> Versus | str:
    """Compare the two models. calls: requests per month, if known; today: the date for the age of prices.

    Returns:
        The comparison; or why there is none, if no API model answered the sealed test.
    """
    if evaluation.training is None:
        return f"{spec.name}: there is no fine-tuned model to compare: training was not worth it"
    name = API_MODEL if API_MODEL in evaluation.scores else "base"
    prompt = best_api_prompt(ScoredBaselines.of(evaluation.baseline.model_dump()).prompts)
    if spec.baseline.endpoint is None or prompt is None or evaluation.cost is None:
        return (
            f"{spec.name}: no API model was evaluated\nfix: set baseline.endpoint {{url, model, key_variable}} "
            f"(`finetune docs planning`), and `finetune run {spec.name}`"
        )
    comparison = evaluation.comparisons[API_MODEL if name == API_MODEL else "baseline"]
    assert comparison is not None
    tokens, scores = evaluation.cost.tokens, evaluation.scores
    tuned_score, api_score = scores["candidate"].primary, scores[name].primary
    own_call, api_call = (Call(tokens[key].prompt, tokens[key].answer) for key in ("candidate", name))
    traffic = Traffic(own_call, api_call, prompt, calls, "the sealed test")
    model = spec.baseline.endpoint.model
    api_price = newest_price([price for price in prices.apis if not price.tuned], model)
    hosted = evaluation.training.endpoint
    tuned_price = newest_price([price for price in prices.apis if price.tuned], hosted.base_model) if hosted else None
    warnings = [f"{p.name}: {w}" for p in (api_price, tuned_price) if p for w in p.warnings(today)]
    unknown = f"{prices.path.name} has no price for"
    if api_price is None:
        warnings.append(f"{unknown} {model}: add a line with unit: million_served")
    if hosted and tuned_price is None:
        warnings.append(f"{unknown} a fine-tuned {hosted.base_model}: add a line with tuned: true")
    machines = [] if hosted else [machine_cost(machine, traffic, today) for machine in prices.machines]
    tuned_thousand = {tuned_price.name: 1000 * call_price(tuned_price, traffic.tuned)} if tuned_price else {}
    tuned_thousand |= {
        f"{m.name}, {share} in use": price * traffic.tuned.tokens / 1000
        for m in machines
        for share, price in m.per_million.items()
    }
    tuned_month = {m.name: m.month[1] for m in machines}
    if tuned_price and calls:
        tuned_month = {tuned_price.name: calls * call_price(tuned_price, traffic.tuned)}
    api_call_price = {api_price.name: call_price(api_price, traffic.prompted)} if api_price else {}
    api_thousand = {where: 1000 * price for where, price in api_call_price.items()}
    api_month = {where: calls * price for where, price in api_call_price.items()} if calls else {}
    own_title, api_title = evaluation.models["candidate"].title, f"{model}, {prompt_name(prompt.removeprefix('api_'))}"
    comparable = api_price and api_call_price[api_price.name] and not hosted
    break_evens = [break_even(m, api_price, traffic) for m in prices.machines] if api_price and comparable else []
    return Versus(
        task=spec.name,
        rows=comparison.n,
        metric=evaluation.metric,
        confidence=evaluation.confidence,
        tuned=Side(own_title, tuned_score.value, tuned_score.interval, own_call, tuned_thousand, tuned_month),
        api=Side(api_title, api_score.value, api_score.interval, api_call, api_thousand, api_month),
        gain=comparison.gain,
        gain_interval=comparison.interval,
        p=comparison.mcnemar_p,
        conclusion=_conclusion(comparison),
        break_even=[
            f"{p.machine} is cheaper than {p.api} from {p.calls[1]:,.0f} requests a month on ({in_use(p.utilisation)} in use)"
            for p in break_evens
        ],
        warnings=warnings,
    )


def _conclusion(comparison: Comparison) -> str:
    if comparison.interval is None:
        return "The gain has no interval."
    low, high = comparison.interval
    if low > 0:
        return "The fine-tuned model is significantly better."
    if high < 0:
        return "The API model is significantly better."
    return "Neither is significantly better: the interval of the gain contains zero."


def versus_lines(result: Versus) -> list[str]:
    lines = [f"{result.task}, {counted(result.rows, 'sealed row')}, {metric_title(result.metric)}", ""]
    for side in (result.tuned, result.api):
        lines.append(f"{side.name}: {score_text(result.metric, side.value, side.interval)}")
        lines.append(f"  a request reads {number(side.call.prompt)} tokens and writes {number(side.call.answer)}")
        lines += [f"  1,000 requests: {dollars(price)}, {where}" for where, price in side.thousand.items()]
        lines += [f"  a month: {dollars(price)}, {where}" for where, price in side.month.items()]
    lines += [
        "",
        f"gain of the fine-tuned model: {points(result.gain)} points, {level(result.confidence)} interval "
        f"{points_range(result.gain_interval)}, paired by row. {result.conclusion}",
        *result.break_even,
        *(f"to confirm: {line}" for line in result.warnings),
    ]
    return lines
