"""On which day a broken promise is noticed, and how often a kept one raises a false alarm.

    python benchmarks/promise_watch.py

Traffic is simulated day by day as `finetune serve` logs it. A champion answers 80% of the rows by itself and promises at most
5% wrong ones among them; `logs.sample_share` draws some of these by the hash of their ids, and reviewers decide them on the
same day. `promise_kept` looks every day, as the champion's sensor does. False alarms are counted over 200 months in which the error
is 3% (usual for a threshold that the sealed test certified), over 200 months in which it is exactly the promised 5%, the worst
case, and over 200 years of it. In the months with a shift the error rises on the 15th day.

Measures: finetune_pipeline/production/promise_watch.py.
"""

import argparse
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline.evaluation.calibration import AutomationPromise
from finetune_pipeline.production.choosing import in_watched_sample
from finetune_pipeline.production.promise_watch import evidence, promise_kept
from finetune_pipeline.spec.model import TaskSpec

PROMISE, ANSWERED = AutomationPromise(threshold=0.9, max_error=0.05), 0.8
DAYS, SHIFT = 30, 14
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
OUTPUT = {"kind": "labels", "labels": ["bug", "howto"]}


def spec_of(share: float) -> TaskSpec:
    written = {"name": "t", "description": "d", "system_prompt": "s", "output": OUTPUT, "logs": {"sample_share": share}}
    return TaskSpec.model_validate(written)


def month(seed: int, per_day: int, share: float, errors: list[float]) -> list[dict[str, Any]]:
    """Rows of one month, as merge_lines returns them. errors: of each day, among the rows answered without a person."""
    rng, rows = np.random.default_rng(seed), []
    for day, error in enumerate(errors):
        for i in range(per_day):
            name, passed_on = f"{seed}-{day}-{i}", bool(rng.random() >= ANSWERED)
            is_decided = not passed_on and in_watched_sample(name, share)
            right = "howto" if rng.random() < error else "bug"
            at = (BEGIN + timedelta(days=day, seconds=i)).isoformat()
            row: dict[str, Any] = {"id": name, "timestamp": at, "model_version": "t:2", "output": "bug"}
            row |= {"passed_on": passed_on, "reviewed": is_decided, "correction": right if is_decided else None}
            rows.append(row | {"decided": at})
    return rows


def first_alarm(rows: list[dict[str, Any]], share: float) -> int | None:
    """The day, from 1, after which the sensor first finds the promise broken. Evidence never falls below what it was, so the whole
    month says it."""
    result = promise_kept(rows, 2, PROMISE, spec_of(share))
    assert result is not None
    return None if result.passed else (datetime.fromisoformat(result.figures["since"]) - BEGIN).days + 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=200)
    months = parser.parse_args().months
    rng, steady = np.random.default_rng(0), {}
    for error in (0.03, PROMISE.max_error):
        found = [first_alarm(month(seed, 200, 0.1, [error] * DAYS), 0.1) for seed in range(months)]
        steady[error] = sum(day is not None for day in found)
    # about 16 decided rows a day for a year
    year = sum(
        bool(evidence(rng.random(5840) < PROMISE.max_error, PROMISE.max_error).max() >= 20) for _ in range(months)
    )
    print(f"max_error {PROMISE.max_error:.0%}, level 5%, {ANSWERED:.0%} answered without a person\n")
    print(f"false alarms in {months} months with an error of 3%, 200 rows a day, 10% drawn: {steady[0.03]}")
    print(f"false alarms in {months} months with an error of exactly 5%: {steady[PROMISE.max_error]}")
    print(f"false alarms in {months} years with an error of exactly 5%, 16 decided rows a day: {year}\n")
    print(
        "error 3%, from day 15 on more; 50 months each: the day of the alarm (median, last tenth), alarms before day 15\n"
    )
    print(
        f"{'rows a day':>10} {'drawn':>6} {'decided a day':>14} {'error':>6} {'noticed':>8} {'median':>7} {'90%':>5} {'early':>6}"
    )
    for per_day, share, after in (
        (200, 0.1, 0.1), (200, 0.1, 0.2), (200, 0.1, 0.4), (1000, 0.02, 0.2), (1000, 0.1, 0.1), (1000, 0.1, 0.2), (1000, 0.1, 0.4),
    ):  # fmt: skip
        errors = [0.03] * SHIFT + [after] * (DAYS - SHIFT)
        found = [first_alarm(month(seed, per_day, share, errors), share) for seed in range(50)]
        noticed = sorted(day for day in found if day is not None and day > SHIFT)
        early = sum(day is not None and day <= SHIFT for day in found)
        middle, late = (noticed[int(q * len(noticed))] if noticed else "-" for q in (0.5, 0.9))
        decided = per_day * ANSWERED * share
        print(
            f"{per_day:>10} {share:>6.0%} {decided:>14.0f} {after:>6.0%} {len(noticed) / len(found):>8.0%} {middle:>7} {late:>5} "
            f"{early:>6}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
