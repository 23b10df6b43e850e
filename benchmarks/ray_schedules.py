"""At most one Ray job for a training: random schedules of failing requests, failing jobs and killed processes.

    python benchmarks/ray_schedules.py --schedules 100

The tests run a dozen (unit/trainers/test_ray_schedules.py); a broken promise is an AssertionError with its seed.
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

from finetune_pipeline_tests.unit.trainers.test_ray_schedules import check_schedule
from finetune_pipeline_tests.unit.training.jobs import make_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100)
    given = parser.parse_args()
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder) / "inputs", 8)
        for seed in range(given.schedules):
            schedule, server = check_schedule(inputs, Path(folder) / str(seed), seed)
            totals.update(requests=len(server.requests), jobs=len(server.jobs), failed=schedule.failed)
            totals.update(schedule.injected)
    print(f"{given.schedules} schedules, one result each: {dict(totals)}")


if __name__ == "__main__":
    main()
