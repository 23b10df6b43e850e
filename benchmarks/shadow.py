"""How often two equally good models are called different, and on which day a better or worse one behind the champion is noticed.

    python benchmarks/shadow.py

Traffic is simulated day by day as `finetune serve --shadow` logs it: 200 rows a day for 30 days, labels. The champion is right on
80%. The model behind it is as good, 5 points better or 5 points worse; both are wrong together on some rows, with two different
answers on 2%. Reviewers decide so many of the rows with different answers a day, in the order of the queue. `compare_shadow` looks
every day: the first verdict counts.

Measures: finetune_pipeline/production/shadow.py.
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.production.choosing import DIFFERS, choose
from finetune_pipeline.production.shadow import compare_shadow
from finetune_pipeline.spec.model import TaskSpec

DAYS, PER_DAY = 30, 200
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
RIGHT, WRONG, OTHER = "bug", "howto", "billing"
SPEC = TaskSpec.model_validate(
    {
        "name": "t",
        "description": "d",
        "system_prompt": "s",
        "output": {"kind": "labels", "labels": [RIGHT, WRONG, OTHER]},
        "logs": {"sample_share": 0.0},
    }
)
ANSWERS = [(RIGHT, RIGHT), (RIGHT, WRONG), (WRONG, RIGHT), (WRONG, OTHER), (WRONG, WRONG)]
"""Answers of the champion and of the model behind it, in the order of `chances`."""


def chances(gain: float, discordant: float) -> list[float]:
    """Of each pair of answers. gain: of the second model, a share; discordant: share of rows that only one answers right."""
    only_champion, only_second = (discordant - gain) / 2, (discordant + gain) / 2
    return [0.8 - only_champion, only_champion, only_second, 0.02, 0.2 - only_second - 0.02]


def month(seed: int, gain: float, discordant: float, decided_a_day: int) -> tuple[str, int] | None:
    """Return the first verdict and its day, from 1; None without one in the month."""
    rng, rows = np.random.default_rng(seed), list[dict[str, Any]]()
    for day in range(DAYS):
        for i, answers in enumerate(rng.choice(len(ANSWERS), PER_DAY, p=chances(gain, discordant))):
            champion, second = ANSWERS[answers]
            if champion == second:  # equal answers are no evidence
                continue
            at = (BEGIN + timedelta(days=day, seconds=i)).isoformat()
            shadow = {"model_version": "t:2", "output": second, "champion": "t:1", "champion_output": champion}
            row = {"id": f"{seed}-{day}-{i}", "timestamp": at, "model_version": "t:1", "input": f"text {day} {i}"}
            row |= {"output": champion, "correction": None, "reviewed": False, "flag": None, "score": None}
            row |= {"left_out": False, "user": None, "turns": None, "source": {"file": "a", "line": i}}
            rows.append(row | {"shadow": {**shadow, "seconds": 0.1, "champion_seconds": 0.1, "problem": ""}})
        queue = [row for row, why in choose(SPEC, rows).queue if why == DIFFERS]
        for place, row in enumerate(queue[:decided_a_day]):
            decided = (BEGIN + timedelta(days=day, hours=12, seconds=place)).isoformat()
            row |= {"correction": RIGHT, "reviewed": True, "decided": decided}
    # evidence never falls below what it was: the whole month says when the first look found a verdict
    report = compare_shadow(rows, SPEC)
    if report is None or report.better is None:
        return None
    return report.better, (datetime.fromisoformat(report.since) - BEGIN).days + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=1000)
    parser.add_argument("--months-of-a-gain", type=int, default=50)
    options = parser.parse_args()
    null = [month(seed, 0.0, 0.15, 20) for seed in range(options.months)]
    called = [sum(verdict is not None and verdict[0] == name for verdict in null) for name in ("shadow", "champion")]
    print(f"level {1 - SPEC.gates.confidence:.0%}, {PER_DAY} rows a day, {DAYS} days, 20 decided a day\n")
    print(f"{options.months} months of two equally good models that disagree on 17% of the rows:")
    print(f"  the second called better {called[0]}, the champion called better {called[1]}\n")
    print(f"{options.months_of_a_gain} months each: the day of the verdict (median, last tenth), and wrong verdicts\n")
    print(f"{'points':>6} {'one right':>9} {'decided a day':>14} {'verdict':>8} {'median':>7} {'90%':>5} {'wrong':>6}")
    for gain in (0.05, -0.05):
        for discordant in (0.09, 0.15):
            for decided in (10, 20, 40):
                verdicts = [month(seed, gain, discordant, decided) for seed in range(options.months_of_a_gain)]
                expected = "shadow" if gain > 0 else "champion"
                days = sorted(verdict[1] for verdict in verdicts if verdict and verdict[0] == expected)
                wrong = sum(verdict is not None and verdict[0] != expected for verdict in verdicts)
                middle, late = (days[int(q * len(days))] if days else "-" for q in (0.5, 0.9))
                print(
                    f"{100 * gain:>+6.0f} {discordant:>9.0%} {decided:>14} {len(days) / len(verdicts):>8.0%} {middle:>7} {late:>5} "
                    f"{wrong:>6}"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
