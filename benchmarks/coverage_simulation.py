"""How often one model is wrongly said to answer more rows by itself than another at a promised error.

    python benchmarks/coverage_simulation.py --worlds 1000

Two models answer the same validation and sealed rows; `certify` chooses and tests a threshold of each, and these pairs of model and
threshold are what would be put into service. The second model wins by a rule if its promise is certified and an exact one-sided
McNemar test says that it answers more of the sealed rows. A win is false if, by the law of the world, the second pair answers no
more rows than the first (`no gain`), or more of its answers are wrong than was promised (`broken`).

Rules, the thresholds at which the test counts answered rows: `validation`: those that validation chose, while the certified ones,
which may be looser, are put into service; `strict`: the same, and they are put into service; `certified`: the certified ones;
`corrected`: the same at the level divided by the number of thresholds that the second model could be certified at.

The level of `corrected` is proved, too. The second model's thresholds are fixed before the sealed rows are seen, so the chance that
the test errs at any of them is at most the level, by Bonferroni. The first model's need no correction: with a looser threshold it
answers the same rows and more, so a test that rejects there rejects at the strictest threshold with no true gain.

Measures: finetune_pipeline/evaluation/automation.py, finetune_pipeline/evaluation/coverage.py.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.evaluation.automation import certify
from finetune_pipeline.evaluation.coverage import coverage_gain
from finetune_pipeline.evaluation.probabilities import Answers

ALPHA = 0.025
POPULATION = 100_000
Law = Callable[[np.ndarray], np.ndarray]
"""The chance that an answer is right, by its probability."""
GRID = np.linspace(0, 1, 4001)
RULES = ("validation", "strict", "certified", "corrected")


class Model:
    """How sure a model is of its answers, 1 minus a Beta(a, b), and how often these are right."""

    def __init__(self, a: float, b: float, power: float = 1.0) -> None:
        self.quantiles, self.power = 1 - scipy.stats.beta.ppf(GRID, a, b), power

    def probabilities(self, difficulty: np.ndarray) -> np.ndarray:
        return np.interp(difficulty, GRID, self.quantiles)

    def right(self, p: np.ndarray) -> np.ndarray:
        return np.asarray(p**self.power)


BETTER, WORSE, OVERCONFIDENT = Model(0.35, 4), Model(0.7, 4), Model(0.2, 4, power=2.0)
WORLDS = {
    "equal": (BETTER, BETTER),
    "second worse": (BETTER, WORSE),
    "second better": (WORSE, BETTER),
    "second surer": (BETTER, OVERCONFIDENT),
}
"""First and second model. The surer one is as often right, but its probabilities are too high."""


def drawn(rng: np.random.Generator, models: tuple[Model, Model], n: int) -> list[Answers]:
    """Answers of both to the same rows: rows that one is unsure of, the other tends to be unsure of, and they share mistakes."""
    shared, luck, answers = rng.standard_normal(n), rng.random(n), []
    for model in models:
        p = model.probabilities(scipy.special.ndtr(np.sqrt(0.5) * (shared + rng.standard_normal(n))))
        own = np.where(rng.random(n) < 0.5, luck, rng.random(n))
        answers.append(Answers(p, own < model.right(p)))
    return answers


class Truth:
    """The true coverage and error of a model at a threshold."""

    def __init__(self, model: Model) -> None:
        surest = model.probabilities((np.arange(POPULATION) + 0.5) / POPULATION)
        self.ascending, self.errors = surest[::-1], np.cumsum(1 - model.right(surest))

    def at(self, threshold: float) -> tuple[float, float]:
        answered = POPULATION - int(np.searchsorted(self.ascending, threshold))
        return answered / POPULATION, float(self.errors[answered - 1] / answered) if answered else 0.0


def answers_more(test: list[Answers], thresholds: tuple[float, float], alpha: float) -> bool:
    """Whether the second model surely answers more rows than the first."""
    first, second = (a.probabilities >= t for a, t in zip(test, thresholds, strict=True))
    gain = coverage_gain("first", first.tolist(), second.tolist(), thresholds=1, level=2 * alpha)
    return bool(gain.shown)


def simulated(
    models: tuple[Model, Model], rows: tuple[int, int], max_error: float, worlds: int
) -> dict[str, tuple[int, int, int]]:
    """Return (wins of the second model, of them without a gain, of them with a broken promise) by rule."""
    rng, truths = np.random.default_rng(1), [Truth(model) for model in models]
    counts = dict.fromkeys(RULES, (0, 0, 0))
    for _ in range(worlds):
        validation, test = drawn(rng, models, rows[0]), drawn(rng, models, rows[1])
        promises = [certify(v, t, max_error, ALPHA) for v, t in zip(validation, test, strict=True)]
        if promises[1].threshold is None:
            continue
        strict = (promises[0].tested[0].threshold, promises[1].tested[0].threshold)
        served = (strict[0] if promises[0].threshold is None else promises[0].threshold, promises[1].threshold)
        tried = {
            "validation": (strict, ALPHA, served),
            "strict": (strict, ALPHA, strict),
            "certified": (served, ALPHA, served),
            "corrected": (served, ALPHA / promises[1].possible, served),
        }
        for rule, (thresholds, alpha, deployed) in tried.items():
            if answers_more(test, thresholds, alpha):
                (first, _), (second, error) = (t.at(d) for t, d in zip(truths, deployed, strict=True))
                wins, useless, broken = counts[rule]
                counts[rule] = (wins + 1, useless + (second <= first), broken + (error > max_error))
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=1000)
    worlds = parser.parse_args().worlds
    print(f"{worlds:,} worlds each; each test at {ALPHA:.1%}; of all worlds: second model wins / no gain / broken")
    print(f"{'world':<14} {'rows':>10} {'error':>5}  " + "  ".join(f"{rule:>20}" for rule in RULES))
    for name, models in WORLDS.items():
        for rows in ((100, 150), (300, 400), (1000, 1000)):
            for max_error in (0.02, 0.05, 0.10):
                counts = simulated(models, rows, max_error, worlds)
                shares = [" / ".join(f"{count / worlds:.1%}" for count in counts[rule]) for rule in RULES]
                cells = "  ".join(f"{share:>20}" for share in shares)
                print(f"{name:<14} {f'{rows[0]}, {rows[1]}':>10} {max_error:>5.0%}  {cells}", flush=True)


if __name__ == "__main__":
    main()
