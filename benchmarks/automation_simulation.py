"""How often a certified threshold of the answer's probability breaks its promise, and how many rows certainty costs.

    python benchmarks/automation_simulation.py --worlds 1000

In every world a model gives its answers probabilities, and validation and sealed rows are drawn; `certify` chooses and tests a
threshold as the evaluation does. The promise is broken if more than `max_error` of all answers above the threshold would be wrong:
the law of each world is known, so that share is computed from it. `Possible` is the share of rows at the loosest threshold that
keeps the promise in truth; `answered` is the mean share at the certified one, 0 where none was.

Worlds: `calibrated`; `overconfident` (a probability p is right with p to the power of 3); `one source` (a third of the rows are
of one source, all right or all wrong together; the others are their own); `shifted` (on validation the model is calibrated, on the
sealed rows overconfident); `tiny` (40 validation and 120 sealed rows); `useless` (the probability says nothing).

Measures: finetune_pipeline/evaluation/automation.py.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.evaluation.automation import certify
from finetune_pipeline.evaluation.probabilities import Answers, answers_of
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.spec.outputs import LabelsOutput

ALPHA = 0.05
OUTPUT = LabelsOutput(labels=["a", "b"])
GRID = np.linspace(0, 1, 20_001)
Law = Callable[[np.ndarray], np.ndarray]
"""The chance that an answer is right, by its probability."""


def calibrated(p: np.ndarray) -> np.ndarray:
    return p


def overconfident(p: np.ndarray) -> np.ndarray:
    return np.asarray(p**3)


def useless(p: np.ndarray) -> np.ndarray:
    return np.full_like(p, 0.9)


@dataclass(frozen=True)
class World:
    """validation, law: on validation and on sealed rows; dominated: whether a third of the rows share a source."""

    name: str
    validation: Law
    law: Law
    rows: tuple[int, int] = (150, 600)
    dominated: bool = False


WORLDS = (
    World("calibrated", calibrated, calibrated),
    World("overconfident", overconfident, overconfident),
    World("one source", calibrated, calibrated, dominated=True),
    World("shifted", calibrated, overconfident),
    World("tiny", calibrated, calibrated, (40, 120)),
    World("useless", useless, useless),
)


def probabilities(rng: np.random.Generator, n: int) -> np.ndarray:
    """Most answers are nearly sure, as a trained model's are: 1 minus a Beta(0.35, 4), which lies between 0 and 1."""
    return 1 - rng.beta(0.35, 4, n)


def drawn(rng: np.random.Generator, law: Law, n: int, dominated: bool) -> Answers:
    p = probabilities(rng, n)
    luck = rng.random(n)
    shared = np.arange(n) < n // 3 if dominated else np.zeros(n, bool)
    luck[shared], p[shared] = luck[0], p[0]
    rows = [
        {
            "example_id": str(i),
            "gold": "a" if luck[i] < law(p[i : i + 1])[0] else "b",
            "text": "a",
            "status": "ok",
            "label_scores": [float(np.log(max(p[i], 1e-12))), float(np.log(max(1 - p[i], 1e-12)))],
        }
        for i in range(n)
    ]
    sources = {str(i): "one" if shared[i] else str(i) for i in range(n)}
    return answers_of(rows, OUTPUT, sources)


def true_error(law: Law, population: np.ndarray, threshold: float) -> float:
    answered = population[population >= threshold]
    return float(1 - law(answered).mean()) if len(answered) else 0.0


def possible_share(law: Law, population: np.ndarray, max_error: float) -> float:
    """The largest share of rows, the surest first, of which at most max_error are wrong."""
    surest = np.sort(population)[::-1]
    errors = 1 - np.cumsum(law(surest)) / np.arange(1, len(surest) + 1)
    kept = np.flatnonzero(errors <= max_error)
    return float((kept[-1] + 1) / len(surest)) if len(kept) else 0.0


def simulated(world: World, max_error: float, worlds: int, seed: int) -> tuple[int, int, float, float]:
    """Return (promises made, of them broken, mean share answered, possible share)."""
    rng, made, broken, share = np.random.default_rng(seed), 0, 0, 0.0
    population = np.maximum(probabilities(np.random.default_rng(0), 200_000), 0.5)
    for _ in range(worlds):
        validation = drawn(rng, world.validation, world.rows[0], world.dominated)
        test = drawn(rng, world.law, world.rows[1], world.dominated)
        result = certify(validation, test, max_error, ALPHA)
        if result.threshold is not None:
            made += 1
            share += result.coverage
            broken += true_error(world.law, population, result.threshold) > max_error
    return made, broken, share / worlds, possible_share(world.law, population, max_error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    arguments = parser.parse_args()
    print(f"{arguments.worlds:,} worlds each; a promise may be broken in {ALPHA:.0%} of them")
    print(f"{'world':<14} {'max error':>9} {'promised':>9} {'broken':>20} {'answered':>9} {'possible':>9}")
    for world in WORLDS:
        for max_error in (0.01, 0.02, 0.05, 0.10):
            made, broken, share, possible = simulated(world, max_error, arguments.worlds, seed=1)
            low, high = wilson_interval(broken, arguments.worlds)
            of_worlds = f"{broken / arguments.worlds:.1%} ({low:.1%} to {high:.1%})"
            shares = f"{made / arguments.worlds:>9.0%} {of_worlds:>20} {share:>9.0%} {possible:>9.0%}"
            print(f"{world.name:<14} {max_error:>9.0%} {shares}", flush=True)


if __name__ == "__main__":
    main()
