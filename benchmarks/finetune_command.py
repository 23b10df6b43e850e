"""Run `finetune` commands in a work folder with tasks in data/ and state in home/."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Answer(NamedTuple):
    """What a command printed with --json, its exit code, and how many seconds it took."""

    content: dict[str, Any]
    code: int
    seconds: float


def environment(work: Path) -> dict[str, str]:
    """Return the environment of a command: this one with the work folder's tasks and state, and one thread."""
    own = {"FINETUNE_DATA": str(work / "data"), "FINETUNE_HOME": str(work / "home"), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **own, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


def finetune(work: Path, *arguments: str) -> Answer:
    """Run a command with --json, in one thread. Raises RuntimeError if it failed."""
    command = [sys.executable, "-m", "finetune_pipeline.cli.main", *arguments, "--json"]
    began = time.monotonic()
    done = subprocess.run(command, env=environment(work), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode not in (0, 2) or not done.stdout.strip():
        raise RuntimeError(f"finetune {' '.join(arguments)}: exit code {done.returncode}: {done.stdout[-2000:]}")
    return Answer(json.loads(done.stdout), done.returncode, time.monotonic() - began)
