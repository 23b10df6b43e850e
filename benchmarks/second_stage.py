"""What each rule on the sealed test does with second stages that went on: how often one that is no better ships, and a better one.

    python benchmarks/second_stage.py --worlds 1000

A first stage is right on three of four rows. A second stage changes whether one row in five is right, with a true gain. It goes on
by the product's rule on validation rows (refined_choice.choose); then a rule on the sealed test decides:

- `no sure loss`: the upper bound of the gain is not below zero;
- `ahead`: it has more rows right;
- `surely better`: the product's rule (refined_choice.confirmed), at the level that the number of this judgement leaves.

Ten sets of thumbs, one after the other, each make a second stage that is compared on the same rows.

Measures: finetune_pipeline/evaluation/refined_choice.py, finetune_pipeline/evaluation/statistics/proportions.py.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.evaluation.deciding import level_of
from finetune_pipeline.evaluation.refined_choice import choose, confirmed
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.training.facts import RefinedChoice

SIZES, GAINS, SETS = ((50, 100), (100, 200), (300, 600)), (0.03, 0.05, 0.1), 10
ACCURACY, CHANGED = 0.75, 0.2
SPEC = TaskSpec.model_validate(
    {"name": "t", "description": "d", "system_prompt": "a or b", "output": {"kind": "labels", "labels": ["a", "b"]}}
)
RULES: dict[str, Callable[[RefinedChoice], bool]] = {
    "no sure loss": lambda judged: not judged.gain.surely_below,
    "ahead": lambda judged: judged.gain.mean > 0,
    "surely better": lambda judged: judged.refined,
}


def answers(right: np.ndarray) -> list[dict[str, Any]]:
    """Prediction rows that are right or wrong."""
    row = {"model": "m", "gold": "a", "status": "ok", "label_scores": None}
    return [{**row, "example_id": f"e{i:05}", "text": "a" if ok else "b"} for i, ok in enumerate(right)]


def refined(dice: np.random.Generator, before: np.ndarray, gain: float) -> np.ndarray:
    """Change whether rows are right: on average CHANGED of them, with this true gain."""
    fixed, broken = (CHANGED + gain) / 2 / (1 - ACCURACY), (CHANGED - gain) / 2 / ACCURACY
    return before ^ (dice.random(len(before)) < np.where(before, broken, fixed))


def shipped(dice: np.random.Generator, sizes: tuple[int, int], gain: float, sets: int) -> tuple[bool, dict[str, bool]]:
    """Whether validation lets any of the second stages go on, and which rules on the test then ship one."""
    validation, test = (dice.random(n) < ACCURACY for n in sizes)
    went_on, by_rule = False, dict.fromkeys(RULES, False)
    for look in range(1, sets + 1):
        chosen = choose(SPEC, answers(validation), answers(refined(dice, validation, gain)))
        after = refined(dice, test, gain)
        if not chosen.refined:
            continue
        went_on = True
        rows = {"supervised": answers(test), "candidate": answers(after)}
        judged = confirmed(SPEC, rows, chosen, None, float(level_of(look, 0.95).level or 0.0))
        assert judged is not None
        by_rule = {name: by_rule[name] or rule(judged) for name, rule in RULES.items()}
    return went_on, by_rule


def line(worlds: int, sizes: tuple[int, int], gain: float, sets: int, seed: int) -> str:
    dice = np.random.default_rng(seed)
    outcomes = [shipped(dice, sizes, gain, sets) for _ in range(worlds)]
    counts = [sum(went_on for went_on, _ in outcomes)]
    counts += [sum(by_rule[name] for _, by_rule in outcomes) for name in RULES]
    shares = "".join(f"{f'{n / worlds:.1%} (to {wilson_interval(n, worlds)[1]:.1%})':>22}" for n in counts)
    return f"{sizes[0]:>5}, {sizes[1]:<5}{f'{100 * gain:+.0f}':>6}{sets:>6}{shares}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    worlds = parser.parse_args().worlds
    titles = "".join(f"{name:>22}" for name in ("validation lets it on", *RULES))
    print(
        f"{worlds:,} worlds a line: any of the second stages goes on, and is then shipped by a rule (upper bound at 95%)"
    )
    print(f"{'rows':>9}   {'gain':>6}{'sets':>6}{titles}")
    for seed, sizes in enumerate(SIZES):
        for gain, sets in ((0.0, 1), (0.0, SETS), *((gain, 1) for gain in GAINS)):
            print(line(worlds, sizes, gain, sets, seed), flush=True)


if __name__ == "__main__":
    main()
