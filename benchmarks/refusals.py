"""How long the commands take to refuse a training that cannot work, for every case of the tests.

    python benchmarks/refusals.py [--limit 3] [--run 3]

Each case has its own project folder and process: `finetune check` for all, `finetune run` for the first `--run`. Prints the
seconds until the refusal, and the CPU seconds of the command and its children, which count since the machine may be shared.
Exit code 1 if one takes more CPU seconds than `--limit`; an error if one is not refused.
"""

import argparse
import datetime
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.cli import test_refused_trainings as refused


def _refuse(command: str, change: dict, tiny: Path) -> tuple[float, float, str]:
    """Return the seconds, CPU seconds and output of a refusal. Raises AssertionError if the command does not refuse."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        refused.make.__wrapped__(Path(folder), tiny, patch)(**change)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        arguments = [sys.executable, "-m", "finetune_pipeline.cli.main", command, "demo"]
        done = subprocess.run(arguments, env=dict(os.environ), text=True, capture_output=True, check=False)
        seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    output = done.stdout + done.stderr
    assert done.returncode == 1 and "fix: " in output and "Traceback" not in output, output
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, output


def main() -> int:
    """Print a line per case. Returns 1 if one was too slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=3.0, help="CPU seconds")
    parser.add_argument("--run", type=int, default=3, help="number of cases also run with `finetune run`")
    options = parser.parse_args()
    print(
        f"{datetime.date.today()}  python {sys.version.split()[0]}; seconds, CPU seconds, command, case",
        flush=True,
    )
    slow, slowest = 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        tiny = make_tiny_model(Path(folder) / "base")
        cases = [("check", case) for case in refused.CASES] + [("run", case) for case in refused.CASES[: options.run]]
        for command, (title, change, rule, _) in cases:
            seconds, cpu_seconds, output = _refuse(command, change, tiny)
            assert rule in output, output
            slow += cpu_seconds > options.limit
            slowest = max(slowest, cpu_seconds)
            print(f"{seconds:7.2f} {cpu_seconds:6.2f}  {command:5}  {title}", flush=True)
    print(f"{len(cases)} refusals, the slowest {slowest:.2f} CPU seconds; {slow} above {options.limit:g}")
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
