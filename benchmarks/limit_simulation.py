"""Error rate of the gates' intervals exactly at their limit: clustered rows, few rows, skewed scores.

    python -m benchmarks.limit_simulation [--runs 1000] [--out benchmarks/results/DATE-limit-simulation.txt]

Every simulation is at the limit: a gain of 0, or exactly the largest allowed share of lost rows or invalid answers. A gate
then passes a candidate only by chance; 95% intervals promise that in at most 2.5% of simulations. The second figure is that
of the same interval over rows, as if each were its own source.

Measures: finetune_pipeline/evaluation/statistics.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from finetune_pipeline.evaluation.statistics.proportions import clustered_share, clustered_tango_interval
from finetune_pipeline.evaluation.statistics.resampling import paired_bootstrap_mean

Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]
"""Draws a value for every row, given the rows' sources."""
SOURCES = {
    "200 independent rows": np.arange(200),
    "100 sources of 2": np.repeat(np.arange(100), 2),
    "50 sources of 4": np.repeat(np.arange(50), 4),
    "20 sources of 10": np.repeat(np.arange(20), 10),
    "10 sources of 10": np.repeat(np.arange(10), 10),
    "one of 60, 20 of 3": np.repeat(np.arange(21), [60, *[3] * 20]),
    "20 independent rows": np.arange(20),
}
LIMIT = 0.1


def flags(share: float, alike: float) -> Draw:
    """True with chance `share`; with chance `alike` a row has the value of its source."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        of_source = (random.random(source.max() + 1) < share)[source]
        return np.where(random.random(len(source)) < alike, of_source, random.random(len(source)) < share)

    return draw


def signs(share: float, alike: float) -> Draw:
    """Won (1) and lost (-1) with chance `share` each, else 0; with chance `alike` a row has the value of its source."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        of_source, of_row = (
            random.choice(3, n, p=[share, 1 - 2 * share, share]) - 1.0 for n in (source.max() + 1, len(source))
        )
        return np.where(random.random(len(source)) < alike, of_source[source], of_row)

    return draw


def clustered_losses(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
    """60% of the rows are lost in one source in ten; as many are won, spread over the others."""
    bad = (random.random(source.max() + 1) < 0.1)[source]
    return np.where(bad, -1.0 * (random.random(len(source)) < 0.6), 1.0 * (random.random(len(source)) < 0.06 / 0.9))


def alike(of: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    """Gains in a score; half of a source's rows have the value of the source."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        of_source = of(random, source.max() + 1)[source]
        return np.where(random.random(len(source)) < 0.5, of_source, of(random, len(source)))

    return draw


def scores(of: Callable[[np.random.Generator, int], np.ndarray], alike: float) -> Draw:
    """Gains in a score; `alike`: share of the variance that is between sources."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        common, own = of(random, source.max() + 1)[source], of(random, len(source))
        return np.asarray(np.sqrt(alike) * common + np.sqrt(1 - alike) * own)

    return draw


def few_large_losses(random: np.random.Generator, n: int) -> np.ndarray:
    return np.where(random.random(n) < 0.05, -0.95, 0.05)


def few_differ(random: np.random.Generator, n: int) -> np.ndarray:
    return np.where(random.random(n) < 0.8, 0.0, random.uniform(-0.5, 0.5, n))


def _tango(values: np.ndarray, source: list[int]) -> bool:
    lost, won = (values < 0).astype(float).tolist(), (values > 0).astype(float).tolist()
    return clustered_tango_interval(lost, won, source)[0] > 0


def _mean(values: np.ndarray, source: list[int]) -> bool:
    interval = paired_bootstrap_mean([0.0] * len(values), values.tolist(), clusters=source)
    return interval is not None and interval[0] > 0


def _few_lost(values: np.ndarray, source: list[int]) -> bool:
    return clustered_share(values.astype(float).tolist(), source)[0][1] <= LIMIT


def _most_valid(values: np.ndarray, source: list[int]) -> bool:
    return clustered_share((~values).astype(float).tolist(), source)[0][0] >= 1 - LIMIT


WORLDS: dict[str, tuple[Draw, Callable[[np.ndarray, list[int]], bool]]] = {
    "gain, right or wrong: won and lost as often": (signs(0.15, 0), _tango),
    "gain, right or wrong: half of each source alike": (signs(0.15, 0.5), _tango),
    "gain, right or wrong: few won and lost": (signs(0.03, 0), _tango),
    "gain, right or wrong: clustered losses, spread wins": (clustered_losses, _tango),
    "gain in a score: normal": (scores(lambda r, n: r.normal(0, 0.2, n), 0.3), _mean),
    "gain in a score: most win a little, a few lose much": (
        scores(lambda r, n: 0.1 - r.exponential(0.1, n), 0.3),
        _mean,
    ),
    "gain in a score: 1 in 20 loses all, the others win a little": (scores(few_large_losses, 0.0), _mean),
    "the same, half of each source alike": (alike(few_large_losses), _mean),
    "gain in a score: 4 in 5 are equal, half of each source alike": (alike(few_differ), _mean),
    "few_regressions: independent losses": (flags(LIMIT, 0), _few_lost),
    "few_regressions: half of each source alike": (flags(LIMIT, 0.5), _few_lost),
    "few_regressions: whole sources lost": (flags(LIMIT, 1), _few_lost),
    "format_compliance, human_review: half of each source alike": (flags(LIMIT, 0.5), _most_valid),
}
"""How values are drawn, and whether the gate passes."""


def lines(runs: int) -> Iterator[str]:
    for title, (draw, passes) in WORLDS.items():
        yield title
        for name, source in SOURCES.items():
            random, own = np.random.default_rng(0), list(range(len(source)))
            draws = [draw(random, source) for _ in range(runs)]
            rate, naive = (sum(passes(values, of) for values in draws) / runs for of in (source.tolist(), own))
            yield f"   {name:24}{rate:7.1%}{naive:12.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    arguments, began = parser.parse_args(), time.process_time()
    error = 196 * np.sqrt(0.025 * 0.975 / arguments.runs)
    title = (
        f"At the limit, {datetime.now(UTC).date()}: {arguments.runs:,} simulations a line; 2.5% has an error of ±{error:.1f} "
        "points."
    )
    table = [title, "", f"   {'test rows':24}{'passed':>7}{'over rows':>12}", *lines(arguments.runs)]
    text = "\n".join([*table, "", f"{time.process_time() - began:.0f} s of CPU"]) + "\n"
    print(text, end="")
    if arguments.out:
        arguments.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
