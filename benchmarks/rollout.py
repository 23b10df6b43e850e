"""How often a rollout promotes a worse candidate or ends with an equally good one, and on which day it is decided.

    python benchmarks/rollout.py

Traffic is simulated day by day as `finetune serve` logs it: 200 rows a day for 30 days, labels, each row of another user. The
champion is right on 80%. The candidate is as good, 5 points better, or 5 points worse, which is `rollout.margin`: then every
promotion is false. Reviewers decide so many of the rows with different answers a day, in the order of the queue; of wrong answers a
fifth gets a thumb down, of right ones one in 200. `judge` looks every day, as the champion's sensor does, and its step is taken.

Measures: finetune_pipeline/production/rollout.py, finetune_pipeline/evaluation/statistics/betting.py.
"""

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.shadow import ANSWERS, BEGIN, DAYS, PER_DAY, RIGHT, SPEC, chances
from finetune_pipeline.production.choosing import choose
from finetune_pipeline.production.rollout import SHADOW, Rollout, judge, next_percent
from finetune_pipeline.production.share_rows import Assignment, in_share
from finetune_pipeline.spec.model import RolloutSpec, TaskSpec

COMPLAINTS = {True: 0.005, False: 0.2}
"""Share of right and of wrong answers that a user marks as wrong."""
TASK: TaskSpec = SPEC.model_copy(update={"rollout": RolloutSpec()})


def day_of(rng: np.random.Generator, seed: int, day: int, percent: int, gain: float, discordant: float) -> list[Any]:
    """Return the rows of one day, as merge_lines returns them. percent: the stage."""
    rows = []
    for i, answers in enumerate(rng.choice(len(ANSWERS), PER_DAY, p=chances(gain, discordant))):
        champion, candidate = ANSWERS[answers]
        user = f"{seed}-{day}-{i}"
        at = (BEGIN + timedelta(days=day, seconds=86_400 * i / PER_DAY)).isoformat()
        row = {"id": user, "timestamp": at, "model_version": "t:1", "input": f"text {day} {i}", "output": champion}
        row |= {"correction": None, "reviewed": False, "flag": None, "score": None, "left_out": False, "user": user}
        row |= {"turns": None, "source": {"file": "a", "line": i}, "reported": None}
        if percent == SHADOW:
            second = {"model_version": "t:2", "output": candidate, "champion": "t:1", "champion_output": champion}
            row["shadow"] = {**second, "seconds": 0.1, "champion_seconds": 0.1, "problem": ""}
        else:
            chosen = in_share(f"user:{user}", "t:2", percent)
            row["share"] = msgspec.structs.asdict(Assignment("t:1", "t:2", percent, chosen, 0.1))
            row |= {"model_version": "t:2", "output": candidate} if chosen else {}
        row["flag"] = "wrong" if rng.random() < COMPLAINTS[row["output"] == RIGHT] else None
        rows.append(row)
    return rows


def month(seed: int, gain: float, discordant: float, decided_a_day: int) -> tuple[str, str, int]:
    """Return how the rollout ended (promoted, ended, or undecided), at which stage, and on which day, from 1."""
    rng, rows = np.random.default_rng(seed), list[dict[str, Any]]()
    rollout = Rollout(1, 2, SHADOW, BEGIN.isoformat())
    for day in range(DAYS):
        rows += day_of(rng, seed, day, rollout.percent, gain, discordant)
        queue = [row for row, _ in choose(TASK, rows).queue if row.get("shadow")]
        for place, row in enumerate(queue[:decided_a_day]):
            decided = (BEGIN + timedelta(days=day, hours=23, seconds=place)).isoformat()
            row |= {"correction": RIGHT, "reviewed": True, "decided": decided}
        now = BEGIN + timedelta(days=day + 1)
        judged = judge(rows, TASK, rollout, now)
        if judged.action == "stop":
            return "ended", rollout.alias, day + 1
        if judged.action == "advance":
            percent = next_percent(TASK, rollout.percent)
            if percent is None:
                return "promoted", rollout.alias, day + 1
            rollout = Rollout(1, 2, percent, now.isoformat())
    return "undecided", rollout.alias, DAYS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=1000, help="of an equal candidate, and of one 5 points worse")
    parser.add_argument("--months-of-a-gain", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    began = datetime.now(UTC)
    level, margin = 1 - TASK.gates.confidence, RolloutSpec().margin
    print(f"level {level:.0%}, margin {margin:.0%}, {PER_DAY} rows a day, {DAYS} days; {RolloutSpec()!r}\n")
    ends_at = f"{'promoted':>9} {'day':>10} {'ended':>6} {'day':>10} open"
    print(f"{'points':>6} {'one right':>9} {'decided a day':>13} {'months':>6} {ends_at}")
    with ProcessPoolExecutor(options.processes) as pool:
        for gain, discordant, decided, months in (
            (0.0, 0.15, 20, options.months),
            (-0.05, 0.15, 20, options.months),
            (0.0, 0.08, 20, options.months_of_a_gain),
            (-0.05, 0.08, 20, options.months_of_a_gain),
            (0.05, 0.08, 20, options.months_of_a_gain),
            (0.05, 0.15, 20, options.months_of_a_gain),
            (0.05, 0.15, 40, options.months_of_a_gain),
            (0.0, 0.15, 40, options.months_of_a_gain),
            (-0.1, 0.15, 20, options.months_of_a_gain),
        ):
            run = partial(month, gain=gain, discordant=discordant, decided_a_day=decided)
            ends = list(pool.map(run, range(months), chunksize=5))
            cells = []
            for how in ("promoted", "ended"):
                days = sorted(day for end, _, day in ends if end == how)
                when = f"{days[len(days) // 2]} ({days[int(0.9 * len(days))]})" if days else "-"
                cells.append(f"{len(days):>6} {when:>10}")
            still = sum(end == "undecided" for end, _, _ in ends)
            print(
                f"{100 * gain:>+6.0f} {discordant:>9.0%} {decided:>13} {months:>6}    {cells[0]} {cells[1]} {still}",
                flush=True,
            )
    print(f"\n{(datetime.now(UTC) - began).total_seconds():.0f} s; day: the median, and of the last tenth")
    return 0


if __name__ == "__main__":
    sys.exit(main())
