"""Statistical power: computes whether the test set is large enough to show the wanted gain.

A paired test uses the rows on which exactly one of two models is correct. Their number is unknown before the second model
exists. The plan assumes unrelated mistakes, the conservative case, since such models disagree most.
"""

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.automation import STEPS
from finetune_pipeline.evaluation.coverage import forecast_alone
from finetune_pipeline.evaluation.metrics import METRICS, RowMetric
from finetune_pipeline.evaluation.metrics.exact import Exact
from finetune_pipeline.evaluation.rivals import Rival
from finetune_pipeline.evaluation.statistics.power import (
    detectable_mean,
    paired_power,
    rows_needed_for_gain,
    rows_needed_for_mean,
)
from finetune_pipeline.evaluation.statistics.proportions import design_effect
from finetune_pipeline.evaluation.wording import counted, percent, points
from finetune_pipeline.planning.gate_needs import Obstacle, refusals
from finetune_pipeline.spec.model import TaskSpec

Row = Mapping[str, object]
RIGHT = Exact()
LEAST_GAIN = 0.001
"""Resolution of the detectable gain."""


class Power(Facts, frozen=True, kw_only=True):
    """What the test can show.

    Attributes:
        wanted_gain, power: gates.wanted_gain and gates.power.
        rows_needed: Test rows that show the wanted gain; None if so large a gain is impossible.
        detectable_gain: The smallest gain that the test rows can show; None: none, or not known yet.
        power_now: The chance that they show the wanted gain; None for means.
        obstacles: Gates that no candidate can pass on this test.
    """

    test_rows: int
    wanted_gain: float
    power: float
    rows_needed: int | None
    detectable_gain: float | None
    power_now: float | None
    enough: bool
    obstacles: list[Obstacle]
    sentence: str


class PowerPlan(Power, frozen=True, kw_only=True):
    """What the test can show over a measured rival.

    Attributes:
        rival: Title of the rival; before: its score, or with gates.metric coverage the share of rows that it answers by itself.
        must_reach: The score on the test at which the gain is shown; None: none, or coverage decides.
        disagreement: Expected share of rows on which exactly one is correct; None for means.
        examples_needed: In all splits together.
    """

    metric: str
    rival: str
    before: float
    must_reach: float | None
    disagreement: float | None
    design_effect: float
    examples_needed: int | None


class PowerBounds(Power, frozen=True, kw_only=True):
    """What the test can show, before any prompt is tried: the fewest and most rows needed, over all possible scores of the best
    prompt. enough: the rows are not too few in any case; rows_needed: the fewest."""

    fewest: int
    most: int


def expected_disagreement(before: float, gain: float) -> float:
    """Return the expected share of rows on which exactly one of two models is correct, if they are correct on shares `before`
    and `before + gain` and make unrelated mistakes. It is never below the gain."""
    after = min(1.0, before + gain)
    return max(abs(after - before), before * (1 - after) + (1 - before) * after)


def power_plan(
    spec: TaskSpec,
    test_rows: int,
    rival: Rival,
    sources: Sequence[str] | None = None,
    obstacles: Sequence[Obstacle] = (),
) -> PowerPlan:
    """Compute the number of test rows needed to show the wanted gain, for the first candidate.

    rival: the strongest rival, which the candidate must beat (with gates.metric coverage, coverage.surest_rival); further equally
    strong rivals would take more rows. sources: the source of each row of the rival, if rows share sources. obstacles: from
    gate_needs.obstacles.
    """
    gates = spec.gates
    alpha, gain_above_min = _level(spec), gates.wanted_gain - gates.min_gain
    metric, mean_metric = METRICS[spec.metric], _mean_of_rows(spec)
    needed: int | None
    if spec.by_coverage:
        by_id = dict(zip((row["example_id"] for row in rival.rows), sources, strict=True)) if sources else None
        values = list(map(float, forecast_alone(spec, rival.rows, by_id, test_rows)))
    else:
        values = (mean_metric or RIGHT).row_scores(rival.rows, spec.output)
    before = sum(values) / len(values)
    effect = design_effect(values, sources) if sources is not None else 1.0
    if spec.by_coverage and sources is not None:  # of each source one row counts
        effect = len(sources) / len(set(sources))
    independent_rows = int(test_rows / effect)
    if mean_metric:
        reached = mean_metric.rank(before)
        deviation = _deviation(values, min(1.0, reached + gates.wanted_gain))
        headroom = 1 - reached + 1e-9
        needed = None
        if gates.wanted_gain <= headroom:
            needed = math.ceil(effect * rows_needed_for_mean(gain_above_min, deviation, gates.power, alpha))
        gain = detectable_mean(independent_rows, deviation, gates.power, alpha)
        detectable = None if gain is None or gates.min_gain + gain > headroom else gates.min_gain + gain
        share, power_now = None, None
    else:
        needed = _rows_needed(spec, before, gates.wanted_gain, effect)
        share = expected_disagreement(before, gates.wanted_gain)
        power_now = None
        if independent_rows and needed is not None:
            power_now = paired_power(independent_rows, min(gain_above_min, share), share, alpha)
        detectable = _detectable_gain(spec, before, effect, test_rows)
    plan = PowerPlan(
        test_rows=test_rows,
        wanted_gain=gates.wanted_gain,
        power=gates.power,
        metric=spec.judged_metric,
        rival=rival.title,
        before=before,
        must_reach=None
        if detectable is None or spec.by_coverage
        else metric.rank(min(1.0, metric.rank(rival.value) + detectable)),
        disagreement=share,
        design_effect=effect,
        rows_needed=needed,
        examples_needed=_examples_in_all(spec, needed),
        detectable_gain=detectable,
        power_now=power_now,
        enough=needed is None or test_rows >= needed,
        obstacles=list(obstacles),
        sentence="",
    )
    return replace(plan, sentence=" ".join([_sentence(plan, spec), *refusals(spec, obstacles)]))


def power_bounds(spec: TaskSpec, test_rows: int, obstacles: Sequence[Obstacle] = ()) -> PowerBounds:
    """Return bounds on the test rows that the wanted gain needs, over all possible scores of the best prompt (or all possible
    deviations of a mean over rows). Rows are assumed to be independent. obstacles: from gate_needs.obstacles."""
    gates = spec.gates
    if _mean_of_rows(spec):
        # values between 0 and 1 have a standard deviation of at most a half; differences of unrelated ones have more
        gain_above_min, widest = gates.wanted_gain - gates.min_gain, math.sqrt(2) / 2
        fewest, most = 1, math.ceil(rows_needed_for_mean(gain_above_min, widest, gates.power, 1 - gates.confidence))
    else:
        shares = np.linspace(0, 1 - gates.wanted_gain, 41)
        needed = (_rows_needed(spec, float(share), gates.wanted_gain, 1.0) for share in shares)
        possible = [n for n in needed if n is not None]
        fewest, most = min(possible), max(possible)
    gain = _wanted(spec)
    sentence = f"You have {counted(test_rows, 'test row')}; you need "
    sentence += f"{fewest:,} to {most:,}" if fewest > 1 else f"up to {most:,}"
    prompting = "what prompting answers by itself" if spec.by_coverage else "the score of prompting"
    sentence += f" to see {gain} with a chance of {percent(gates.power)}, depending on {prompting}"
    if test_rows >= most:
        sentence += ". That is enough in any case."
    elif test_rows < fewest:
        examples = _examples_in_all(spec, fewest)
        needed_rows = f"{counted(examples, 'example')} in all" if examples else counted(fewest, "test row")
        sentence += f". That is too few in any case: at least {needed_rows} would be needed."
    else:
        sentence += f" (`finetune advise {spec.name}` measures it)."
    return PowerBounds(
        test_rows=test_rows,
        wanted_gain=gates.wanted_gain,
        power=gates.power,
        fewest=fewest,
        most=most,
        rows_needed=fewest,
        detectable_gain=None,
        power_now=None,
        enough=test_rows >= fewest,
        obstacles=list(obstacles),
        sentence=" ".join([sentence, *refusals(spec, obstacles)]),
    )


def _mean_of_rows(spec: TaskSpec) -> RowMetric | None:
    """Return the deciding metric if it is a mean over rows; for others, the plan uses correct and wrong answers."""
    metric = METRICS[spec.metric]
    return metric if isinstance(metric, RowMetric) and not metric.right_or_wrong else None


def _level(spec: TaskSpec) -> float:
    """Return the two-sided level at which the first candidate's gain is judged: in coverage, shared by the most thresholds."""
    return (1 - spec.gates.confidence) / (STEPS if spec.by_coverage else 1)


def _wanted(spec: TaskSpec) -> str:
    of_rows = " of rows answered by itself" if spec.by_coverage else ""
    return f"+{points(spec.gates.wanted_gain, sign=False)} points{of_rows}"


def _deviation(values: Sequence[float], after: float) -> float:
    """Return the standard deviation of the difference between a rival's scores and unrelated scores with equal spread. If all
    scores of the rival are equal, this assumes the largest possible spread for mean `after` (scores of 0 or 1)."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return math.sqrt(2) * spread if spread > 1e-9 else math.sqrt(after * (1 - after))


def _rows_needed(spec: TaskSpec, before: float, gain: float, effect: float) -> int | None:
    """Return the rows needed to show that a gain exceeds gates.min_gain; None if so large a gain is impossible."""
    if before + gain > 1 + 1e-9:
        return None
    share = expected_disagreement(before, gain)
    gates = spec.gates
    return math.ceil(effect * rows_needed_for_gain(gain - gates.min_gain, share, gates.power, _level(spec)))


def _detectable_gain(spec: TaskSpec, before: float, effect: float, test_rows: int) -> float | None:
    """Return the smallest gain, to a tenth of a point, that these rows show with gates.power."""
    gates = spec.gates

    def is_detectable(gain: float) -> bool:
        needed = _rows_needed(spec, before, gain, effect)
        return needed is not None and needed <= test_rows

    steps = math.floor((1 - before - gates.min_gain) / LEAST_GAIN + 1e-9)
    gains = [gates.min_gain + step * LEAST_GAIN for step in range(1, steps + 1)]
    index = bisect_left(gains, True, key=is_detectable)  # smaller gains need more rows
    return gains[index] if index < len(gains) else None


def _sentence(plan: PowerPlan, spec: TaskSpec) -> str:
    """Say whether the test rows are enough, what gains they can show, and what to do if they are too few."""
    gain = _wanted(spec)
    rows = counted(plan.test_rows, "test row")
    if (needed := plan.rows_needed) is None:
        reached = "answers" if spec.by_coverage else "reaches"
        score = f"On validation {plan.rival} {reached} {percent(plan.before)}"
        score += " by itself" if spec.by_coverage else ""
        return f"{score}: a gain of {gain} over it is impossible."
    sentence = f"You have {rows}; seeing {gain} with a chance of {percent(plan.power)} takes {needed:,}."
    if plan.detectable_gain is not None:
        sentence += f" These rows show gains of {points(plan.detectable_gain, sign=False)} points or more."
    else:
        sentence += " These rows cannot show any possible gain."
    if not plan.enough:
        more = "add rows to the files of split.test"
        if spec.teacher:
            more = f"let people answer more rows with `finetune review {spec.name} --what test`"
        elif plan.examples_needed:
            more = f"collect {plan.examples_needed:,} examples in all, raise split.test"
        sentence += f" For {needed:,} test rows {more}, or raise gates.wanted_gain to what the test can show."
    return sentence


def _examples_in_all(spec: TaskSpec, test_rows: int | None) -> int | None:
    """Return how many examples give so many test rows; None if split.test names the test's files, or with a teacher."""
    share = spec.split.test_share
    return None if test_rows is None or share is None or spec.teacher else math.ceil(test_rows / share)
