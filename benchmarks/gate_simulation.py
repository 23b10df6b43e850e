"""Error rate and power of the gates, by simulation of the deciding code.

    python -m benchmarks.gate_simulation [--runs 2000] [--out benchmarks/results/DATE-gate-simulation.txt]

Right and wrong answers are drawn; each candidate is judged by `beats_baseline` and `beats_champion` themselves, at the
significance level that its look at the test leaves. Decisions depend on the discordant counts alone and are cached, so that
thousands of simulations take seconds. Beside every figure stands the usual practice: an ordinary 95% interval at every look,
and an unpaired z test of two accuracies; for macro-F1 a percentile bootstrap over the labels that occur in the test.

Measures: finetune_pipeline/evaluation/gates, finetune_pipeline/evaluation/deciding.py,
finetune_pipeline/evaluation/statistics.
"""

import argparse
import functools
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from finetune_pipeline.evaluation.deciding import level_of
from finetune_pipeline.evaluation.decisions import BaseMode, Decision, Decisions, Level, RivalGain
from finetune_pipeline.evaluation.gates.beats_baseline import beats_baseline
from finetune_pipeline.evaluation.gates.beats_champion import beats_champion
from finetune_pipeline.evaluation.result import Baseline, EvaluationResult, Seal, Task
from finetune_pipeline.evaluation.statistics.power import paired_power, rows_needed_for_gain
from finetune_pipeline.evaluation.statistics.proportions import crossing, mcnemar_exact, tango_interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_f1
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
        task=Task.model_construct(kind=SPEC.output.kind),
        n=n,
        versions={},
        champion_forgotten=False,
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


EVEN_3, RARE_3, RARE_5 = (1 / 3,) * 3, (0.49, 0.49, 0.02), (0.32, 0.32, 0.32, 0.02, 0.02)
ZIPF_20 = tuple(1 / k / sum(1 / j for j in range(1, 21)) for k in range(1, 21))
MACRO_F1_NULL = (
    ("3 labels, 2% rare: worse there", RARE_3, (0.7, 0.7, 0.9), (0.2,), 100),
    ("3 labels, 2% rare: worse there", RARE_3, (0.7, 0.7, 0.9), (0.2,), 300),
    ("5 labels, two of 2%: worse there", RARE_5, (0.7, 0.7, 0.7, 0.8, 0.8), (0.3, 0.3), 100),
    ("3 labels, 2% rare: equal models", RARE_3, (0.7, 0.7, 0.7), (), 100),
    ("20 labels, Zipf: worse on ten rare", ZIPF_20, (0.6,) * 10 + (0.8,) * 10, (0.5,) * 10, 150),
    ("10 labels, even: equal models", (0.1,) * 10, (0.7,) * 10, (), 100),
)
"""Models of equal macro-F1: name, shares of the labels, recall of the first model by label, recall of the second on the last labels
(on the others as high as equality asks for), test rows."""
MACRO_F1_GAIN = (
    ("3 labels, even: recall .70 to .85", EVEN_3, 0.7, 0.85, 100),
    ("10 labels, even: recall .70 to .85", (0.1,) * 10, 0.7, 0.85, 100),
    ("3 labels, 5% rare: recall .60 to .85", (0.475, 0.475, 0.05), 0.6, 0.85, 200),
    ("3 labels, 2% rare: recall .70 to .85", RARE_3, 0.7, 0.85, 300),
    ("77 labels, even: recall .70 to .80", (1 / 77,) * 77, 0.7, 0.8, 308),
    ("20 labels, Zipf: recall .70 to .85", ZIPF_20, 0.7, 0.85, 150),
)


def answer_chances(recalls: Sequence[float]) -> np.ndarray:
    """Chance of every answer (the last: an invalid one) by right label: half of the errors are invalid."""
    labels = len(recalls)
    chances = np.zeros((labels, labels + 1))
    for k, recall in enumerate(recalls):
        chances[k, :labels] = (1 - recall) / 2 / (labels - 1)
        chances[k, k], chances[k, labels] = recall, (1 - recall) / 2
    return chances


def true_macro_f1(shares: Sequence[float], recalls: Sequence[float]) -> float:
    joint = np.array(shares)[:, None] * answer_chances(recalls)
    labels = range(len(shares))
    return float(np.mean([2 * joint[k, k] / (joint[k].sum() + joint[:, k].sum()) for k in labels]))


def equal_recalls(shares: Sequence[float], recalls: Sequence[float], last: Sequence[float]) -> list[float]:
    """Recalls of a model with the same true macro-F1 and these recalls on the last labels."""
    if not last:
        return list(recalls)

    def filled(recall: float) -> list[float]:
        return [*[recall] * (len(shares) - len(last)), *last]

    wanted = true_macro_f1(shares, recalls)
    return filled(crossing(lambda recall: wanted - true_macro_f1(shares, filled(recall)), 0.01, 0.999))


def percentile_lower_bound(
    gold: np.ndarray, a: np.ndarray, b: np.ndarray, random: np.random.Generator, *, by_label: bool
) -> float:
    """The usual practice: the 2.5% quantile of 500 resamples of rows, over the labels that occur in `gold`; by_label: each label
    keeps its number of rows."""
    cells, counts = np.unique(np.stack([gold, a, b], axis=1), axis=0, return_counts=True)
    classes = np.unique(gold)
    draws = np.zeros((500, len(cells)))
    for part in [cells[:, 0] == label for label in classes] if by_label else [np.ones(len(cells), bool)]:
        drawn = counts[part].sum()
        draws[:, part] = random.multinomial(drawn, counts[part] / drawn, size=500)
    right = cells[:, :1] == classes

    def f1(column: int) -> np.ndarray:
        given = cells[:, column : column + 1] == classes
        matches, totals = 2.0 * (draws @ (right & given)), draws @ right + draws @ given
        return np.divide(matches, totals, out=np.zeros(matches.shape), where=totals > 0).mean(axis=1)

    return float(np.quantile(f1(2) - f1(1), 0.025))


def macro_f1_wins(
    runs: int, shares: Sequence[float], before: Sequence[float], after: Sequence[float], n: int, seed: int
) -> tuple[float, float, float]:
    """Share of tests on which the second model surely gains in macro-F1: by the gates' interval, by the usual one, and by that
    one stratified by label."""
    random, labels = np.random.default_rng(seed), [str(k) for k in range(len(shares))]
    chances = [answer_chances(recalls).cumsum(axis=1) for recalls in (before, after)]
    gates = usual = by_label = 0
    for _ in range(runs):
        gold = random.choice(len(shares), n, p=shares)
        a, b = ((random.random(n)[:, None] > chance[gold]).sum(axis=1).clip(max=len(labels)) for chance in chances)
        said = [[labels[k] if k < len(labels) else None for k in answers] for answers in (a, b)]
        interval = paired_bootstrap_f1([labels[k] for k in gold], said[0], said[1], labels)
        gates += interval is not None and interval[0] > 0
        usual += percentile_lower_bound(gold, a, b, random, by_label=False) > 0
        by_label += percentile_lower_bound(gold, a, b, random, by_label=True) > 0
    return gates / runs, usual / runs, by_label / runs


def macro_f1_lines(runs: int) -> list[str]:
    lines = [
        f"4. Macro-F1, {runs:,} tests a line: share of tests on which the second model surely gains. Beside the gates: a",
        "   percentile bootstrap over the labels that occur in the test, and the same with a fixed number of rows of each.",
        "",
        f"   {'equal macro-F1':<38}rows   gates   usual  by label",
    ]
    for i, (name, shares, before, last, n) in enumerate(MACRO_F1_NULL):
        gates, usual, by_label = macro_f1_wins(runs, shares, before, equal_recalls(shares, before, last), n, 200 + i)
        lines.append(f"   {name:<38}{n:4}  {gates:6.1%}  {usual:6.1%}  {by_label:8.1%}")
    lines += ["", f"   {'a true gain':<38}rows   gates   usual  by label"]
    for i, (name, shares, low, high, n) in enumerate(MACRO_F1_GAIN):
        gates, usual, by_label = macro_f1_wins(runs, shares, [low] * len(shares), [high] * len(shares), n, 300 + i)
        lines.append(f"   {name:<38}{n:4}  {gates:6.1%}  {usual:6.1%}  {by_label:8.1%}")
    return lines


def report(runs: int, macro_f1_runs: int) -> str:
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
        *macro_f1_lines(macro_f1_runs),
        "",
        f"{time.process_time() - began:.0f} s of CPU",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--macro-f1-runs", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = report(arguments.runs, arguments.macro_f1_runs)
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
