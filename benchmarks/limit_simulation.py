"""How often the intervals under the gates let through what lies exactly at the limit: rows that clump, few rows, skewed scores.

    python -m benchmarks.limit_simulation [--runs 1000] [--out benchmarks/results/DATE-limit-simulation.txt]

Every world is at the limit: a gain of 0, or a share of lost rows (of valid answers) that is just the one allowed. A gate then
lets a candidate through by luck alone; 95% intervals promise that in at most 2.5% of worlds. Beside each figure stands that of
the same interval over rows, as if each were its own source.
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
"""Draws a value a row, given the source of every row."""
SOURCES = {
    "200 rows of their own": np.arange(200),
    "100 sources of 2": np.repeat(np.arange(100), 2),
    "50 sources of 4": np.repeat(np.arange(50), 4),
    "20 sources of 10": np.repeat(np.arange(20), 10),
    "10 sources of 10": np.repeat(np.arange(10), 10),
    "one of 60, 20 of 3": np.repeat(np.arange(21), [60, *[3] * 20]),
    "20 rows of their own": np.arange(20),
}
LIMIT = 0.1


def flags(share: float, alike: float) -> Draw:
    """True with chance `share`; with chance `alike` a row is as its source is."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        of_source = (random.random(source.max() + 1) < share)[source]
        return np.where(random.random(len(source)) < alike, of_source, random.random(len(source)) < share)

    return draw


def signs(share: float, alike: float) -> Draw:
    """Won and lost with chance `share` each, else 0."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        of_source, of_row = (
            random.choice(3, n, p=[share, 1 - 2 * share, share]) - 1.0 for n in (source.max() + 1, len(source))
        )
        return np.where(random.random(len(source)) < alike, of_source[source], of_row)

    return draw


def clumped_losses(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
    """One source in ten is lost for the greater part; as much is won here and there."""
    bad = (random.random(source.max() + 1) < 0.1)[source]
    return np.where(bad, -1.0 * (random.random(len(source)) < 0.6), 1.0 * (random.random(len(source)) < 0.06 / 0.9))


def scores(of: Callable[[np.random.Generator, int], np.ndarray], alike: float) -> Draw:
    """Gains in a score; `alike`: share of the variance that is of the source."""

    def draw(random: np.random.Generator, source: np.ndarray) -> np.ndarray:
        common, own = of(random, source.max() + 1)[source], of(random, len(source))
        return np.asarray(np.sqrt(alike) * common + np.sqrt(1 - alike) * own)

    return draw


def few_large_losses(random: np.random.Generator, n: int) -> np.ndarray:
    return np.where(random.random(n) < 0.05, -0.95, 0.05)


def _tango(values: np.ndarray, source: list[int]) -> bool:
    lost, won = (values < 0).astype(float).tolist(), (values > 0).astype(float).tolist()
    return clustered_tango_interval(lost, won, source)[0] > 0


def _mean(values: np.ndarray, source: list[int]) -> bool:
    interval = paired_bootstrap_mean([0.0] * len(values), values.tolist(), clusters=source)
    return interval is not None and interval[0] > 0


def _few(values: np.ndarray, source: list[int]) -> bool:
    return clustered_share(values.astype(float).tolist(), source)[0][1] <= LIMIT


def _most(values: np.ndarray, source: list[int]) -> bool:
    return clustered_share((~values).astype(float).tolist(), source)[0][0] >= 1 - LIMIT


WORLDS: dict[str, tuple[Draw, Callable[[np.ndarray, list[int]], bool]]] = {
    "gain, right or wrong: won and lost as often": (signs(0.15, 0), _tango),
    "gain, right or wrong: half of each source alike": (signs(0.15, 0.5), _tango),
    "gain, right or wrong: few won and lost": (signs(0.03, 0), _tango),
    "gain, right or wrong: losses clump, wins do not": (clumped_losses, _tango),
    "gain in a score: normal": (scores(lambda r, n: r.normal(0, 0.2, n), 0.3), _mean),
    "gain in a score: most win a little, a few lose much": (
        scores(lambda r, n: 0.1 - r.exponential(0.1, n), 0.3),
        _mean,
    ),
    "gain in a score: 1 in 20 loses all, the others win a little": (scores(few_large_losses, 0.0), _mean),
    "few_regressions: losses by themselves": (flags(LIMIT, 0), _few),
    "few_regressions: half of each source alike": (flags(LIMIT, 0.5), _few),
    "few_regressions: whole sources lost": (flags(LIMIT, 1), _few),
    "format_compliance, human_review: half of each source alike": (flags(LIMIT, 0.5), _most),
}


def lines(runs: int) -> Iterator[str]:
    for title, (draw, passes) in WORLDS.items():
        yield f"{title}"
        for name, source in SOURCES.items():
            random, own = np.random.default_rng(0), list(range(len(source)))
            worlds = [draw(random, source) for _ in range(runs)]
            rate, naive = (sum(passes(world, of) for world in worlds) / runs for of in (source.tolist(), own))
            yield f"   {name:24}{rate:7.1%}{naive:12.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    chosen, began = parser.parse_args(), time.process_time()
    error = 196 * np.sqrt(0.025 * 0.975 / chosen.runs)
    head = f"At the limit, {datetime.now(UTC).date()}: {chosen.runs:,} worlds a line; 2.5% is known to ±{error:.1f} points."
    made = [head, "", f"   {'test rows':24}  let through   over rows", *lines(chosen.runs)]
    text = "\n".join([*made, "", f"{time.process_time() - began:.0f} s of CPU"]) + "\n"
    print(text, end="")
    if chosen.out:
        chosen.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
