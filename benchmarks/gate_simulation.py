"""Error rate and power of the gates, by simulation of the deciding code.

    python -m benchmarks.gate_simulation [--runs 2000] [--out benchmarks/results/DATE-gate-simulation.txt]

Right and wrong answers are drawn; each candidate is judged by `beats_baseline` and `beats_champion` themselves, at the
significance level that its look at the test leaves. Decisions depend on the discordant counts alone and are cached, so that
thousands of simulations take seconds. Beside every figure stands the usual practice: an ordinary 95% interval at every look,
and an unpaired z test of two accuracies.
"""

import argparse
import functools
import math
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from finetune_pipeline.evaluation.deciding import level_of
from finetune_pipeline.evaluation.gates.beats_baseline import beats_baseline
from finetune_pipeline.evaluation.gates.beats_champion import beats_champion
from finetune_pipeline.evaluation.result import BaseMode, Decision, Decisions, EvaluationResult, Level, RivalGain, Seal
from finetune_pipeline.evaluation.statistics.power import paired_power, rows_needed_for_gain
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval
from finetune_pipeline.evaluation.step_facts import Baseline
from finetune_pipeline.spec.model import TaskSpec

TRIES = 20
SPEC = TaskSpec.model_validate(
    {
        "name": "simulated",
        "description": "none",
        "system_prompt": "Answer yes or no.",
        "output": {"kind": "labels", "labels": ["yes", "no"]},
    }
)
NOT_WORSE = SPEC.model_copy(update={"gates": SPEC.gates.model_copy(update={"champion": "not_worse"})})


def judged(b: int, c: int, n: int, look: int, *, champion: bool = False, spec: TaskSpec = SPEC) -> bool:
    """Whether the gate passes a candidate that loses b and wins c of n rows, at the look-th look at its test."""
    return _judged(int(b), int(c), int(n), int(look), champion, spec is NOT_WORSE)


@functools.cache
def _judged(b: int, c: int, n: int, look: int, champion: bool, not_worse: bool) -> bool:
    spec = NOT_WORSE if not_worse else SPEC
    level = level_of(look, spec.gates.confidence)
    margin = -spec.gates.champion_margin if champion and not_worse else 0.0
    interval = tango_interval(b, c, n, level.confidence or 0.95)
    side, gate = ("champion", beats_champion) if champion else ("baseline", beats_baseline)
    rival = "champion" if champion else "free"
    gain = RivalGain(rival=rival, metric="accuracy", gain=(c - b) / n, interval=interval, confidence=level.confidence)
    decision = Decision(margin=margin, shown=interval[0] > margin, gains=[gain])
    return gate(spec, evaluation_of(n, level, **{side: decision})).passed


def evaluation_of(n: int, level: Level, **decisions: Decision) -> EvaluationResult:
    """An evaluation of n rows with the fields that the gates on gains read."""
    return EvaluationResult.model_construct(
        n=n,
        versions={},
        decisions=Decisions.model_construct(**decisions),
        comparisons={},
        seal=Seal(openings=[], level=level),
        baseline=Baseline(best="8_shot"),
        base_at_its_best=BaseMode(mode="free"),
    )


def unpaired(x: int, y: int, n: int) -> bool:
    """The unpaired z test of two shares at the two-sided 5% level, as when two printed standard errors are compared."""
    p, q = x / n, y / n
    spread = math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return spread > 0 and (q - p) / spread > 1.959964


def useless_promoted(runs: int, n: int, accuracy: float, correlation: float, seed: int) -> tuple[float, float, float]:
    """Share of runs in which one of TRIES candidates, each exactly as good as the baseline, is promoted.

    Args:
        runs: Number of simulations.
        n: Test rows.
        accuracy: Of the baseline and the candidates.
        correlation: Chance that a candidate answers a row as the baseline does; else it is right with chance `accuracy`.
        seed: Of the random numbers.

    Returns:
        The share by the gates, by a 95% interval at every look, and by the unpaired test.
    """
    random = np.random.default_rng(seed)
    spent = fixed = naive = 0
    for _ in range(runs):
        base = random.random(n) < accuracy
        same = random.random((TRIES, n)) < correlation
        candidates = np.where(same, base, random.random((TRIES, n)) < accuracy)
        b, c = (base & ~candidates).sum(axis=1), (~base & candidates).sum(axis=1)
        spent += any(judged(x, y, n, look) for look, (x, y) in enumerate(zip(b, c, strict=True), 1))
        fixed += any(judged(x, y, n, 1) for x, y in zip(b, c, strict=True))
        naive += any(unpaired(int(base.sum()), int(k), n) for k in candidates.sum(axis=1))
    return spent / runs, fixed / runs, naive / runs


def useful_promoted(runs: int, n: int, gain: float, discordant: float, look: int, seed: int) -> tuple[float, float]:
    """Share of useful candidates that pass at the look-th look, and the share by paired_power."""
    random = np.random.default_rng(seed)
    chances = [(discordant - gain) / 2, (discordant + gain) / 2, 1 - discordant]
    draws = random.multinomial(n, chances, size=runs)
    passed = sum(judged(b, c, n, look) for b, c, _ in draws)
    return passed / runs, paired_power(n, gain, discordant, level_of(look, SPEC.gates.confidence).level)


def exact_mcnemar(runs: int, n: int, gain: float, discordant: float, seed: int) -> float:
    """As :func:`useful_promoted` at the first look, by the exact McNemar test."""
    draws = np.random.default_rng(seed).multinomial(
        n, [(discordant - gain) / 2, (discordant + gain) / 2, 1 - discordant], size=runs
    )
    return sum(c > b and mcnemar_exact(int(b), int(c)) < 0.05 for b, c, _ in draws) / runs


def report(runs: int) -> str:
    began = time.process_time()
    error = 1.96 * math.sqrt(0.05 * 0.95 / runs)
    lines = [
        f"Gates by simulation, {datetime.now(UTC).date()}: {runs:,} simulations a line; a rate of 5% has an "
        f"error of ±{100 * error:.1f} points.",
        "",
        f"1. {TRIES} useless candidates, each exactly as good as the baseline, one after another on one sealed test:",
        "   chance that one is promoted. Beside the gates: a 95% interval at every look; an unpaired z test at every look.",
        "",
        "   rows  accuracy  answers shared   gates   95% each time   unpaired",
    ]
    worst = 0.0
    for i, (n, accuracy, same) in enumerate(
        [(100, 0.6, 0.5), (200, 0.6, 0.5), (200, 0.8, 0.8), (500, 0.7, 0.0), (500, 0.9, 0.9), (1000, 0.8, 0.5)]
    ):
        spent, fixed, naive = useless_promoted(runs, n, accuracy, same, i)
        worst = max(worst, spent)
        lines.append(f"   {n:4}  {accuracy:8.1f}  {same:14.0%}  {spent:6.1%}  {fixed:14.1%}  {naive:9.1%}")
    lines += [
        f"   worst {worst:.1%}; the bound is {level_of(TRIES, 0.95).spent:.1%}, and 5% for any number of candidates",
        "",
        "2. Ties, by the gate against the champion (1,000 rows): identical answers, and equally many won and lost.",
    ]
    ties = [judged(k, k, 1000, 1, champion=True, spec=s) for k in (0, 1, 5, 50, 200) for s in (SPEC, NOT_WORSE)]
    lines += [
        f"   promoted: {sum(ties)} of {len(ties)} (better and not_worse)",
        "",
        "3. Useful candidates: share promoted, and planned. Rows as planned for 80% at the first look.",
        "",
        "   gain  disagreement  rows  look  passed  planned   exact McNemar, look 1",
    ]
    furthest = 0.0
    for i, (gain, discordant) in enumerate([(0.05, 0.10), (0.05, 0.20), (0.05, 0.40), (0.10, 0.20), (0.15, 0.30)]):
        n = rows_needed_for_gain(gain, discordant)
        for look in (1, 2, 5, 20):
            passed, planned = useful_promoted(runs, n, gain, discordant, look, 100 + i)
            furthest = max(furthest, abs(passed - planned))
            exact = f"{exact_mcnemar(runs, n, gain, discordant, 100 + i):12.1%}" if look == 1 else ""
            lines.append(
                f"   {gain:4.2f}  {discordant:12.2f}  {n:4}  {look:4}  {passed:6.1%}  {planned:7.1%}   {exact}".rstrip()
            )
    lines += [
        f"   furthest from the plan: {100 * furthest:.1f} points",
        "",
        f"{time.process_time() - began:.0f} s of CPU",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = report(arguments.runs)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
