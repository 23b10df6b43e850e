"""How long a training that cannot work takes to be refused: every case of the tests, by the real commands.

    python benchmarks/refusals.py [--limit 3] [--run 3]

Each case is a project folder of its own and a process of its own: `finetune check` for all of them, `finetune run` for the
first `--run`. What counts is seconds from start to refusal; on a machine with other work beside it, the processor seconds
the command took (of it and its children) are what it needs of an idle one, and they decide. Exit code 1 when one takes
longer than `--limit`, or is not refused.
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

from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.cli import test_refused_trainings as refused


def _refuse(command: str, change: dict, tiny: Path) -> tuple[float, float, str]:
    """(seconds, processor seconds, what was said) of one refusal. Raises AssertionError where there was none."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        refused.make.__wrapped__(Path(folder), tiny, patch)(**change)
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        arguments = [sys.executable, "-m", "finetune_pipeline.cli.main", command, "demo"]
        done = subprocess.run(arguments, env=dict(os.environ), text=True, capture_output=True, check=False)
        took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "fix: " in said and "Traceback" not in said, said
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, said


def main() -> int:
    """Print a line a case; 1 where one was too slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=float, default=3.0, help="seconds")
    parser.add_argument("--run", type=int, default=3, help="cases asked of `finetune run` too")
    options = parser.parse_args()
    print(
        f"{datetime.date.today()}  python {sys.version.split()[0]}; seconds, processor seconds, command, case",
        flush=True,
    )
    slow, most = 0, 0.0
    with tempfile.TemporaryDirectory() as place:
        tiny = make_tiny_model(Path(place) / "base")
        asked = [("check", case) for case in refused.CASES] + [("run", case) for case in refused.CASES[: options.run]]
        for command, (what, change, rule, _) in asked:
            seconds, processor, said = _refuse(command, change, tiny)
            assert rule in said, said
            slow += processor > options.limit
            most = max(most, processor)
            print(f"{seconds:7.2f} {processor:6.2f}  {command:5}  {what}", flush=True)
    print(f"{len(asked)} refusals, the slowest {most:.2f} processor seconds; {slow} above {options.limit:g}")
    return int(slow > 0)


if __name__ == "__main__":
    sys.exit(main())
