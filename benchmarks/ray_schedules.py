"""At most one Ray job for a training: random schedules of failing requests, failing jobs and killed processes.

    python benchmarks/ray_schedules.py [--schedules 100]

The tests run a few of them (unit/trainers/test_ray_schedules.py). A violation is an AssertionError with its seed.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline_tests.unit.trainers.test_ray_schedules import check_schedule
from finetune_pipeline_tests.unit.training.jobs import make_inputs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=100)
    arguments = parser.parse_args()
    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        inputs = make_inputs(Path(folder) / "inputs", 8)
        for seed in range(arguments.schedules):
            schedule = check_schedule(inputs, Path(folder) / str(seed), seed)
            totals.update(requests=schedule.requests, jobs=schedule.failed + 1, failed=schedule.failed)
            totals.update(schedule.injected)
    print(f"{arguments.schedules} schedules, one result each: {dict(totals)}")


if __name__ == "__main__":
    main()
