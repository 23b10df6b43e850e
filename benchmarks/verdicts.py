"""Whole runs in worlds where the right verdict is known, beside the verdict that was given.

    python -m benchmarks.verdicts DIR [--only NAME,…]
    python -m benchmarks.verdicts --null 1000

Everything is the real thing: `finetune run` with its child processes, Dagster and MLflow on SQLite, on a model of two layers
that was taught some skills (verdict_base.py). The worlds are in verdict_list.py. Exit code 1 if any verdict is wrong. --null
draws so many candidates in each of some worlds, all exactly as good as their strongest rival, and lets the gates judge them
(null_simulation.py); nothing is trained.
"""

import argparse
import sys
import textwrap
import time
from pathlib import Path

from benchmarks.null_simulation import null_report
from benchmarks.planted_world import run
from benchmarks.verdict_base import make_verdict_base
from benchmarks.verdict_list import WORLDS
from benchmarks.verdict_worlds import KnownWorld, given, problems


def judge(world: KnownWorld, folder: Path, base: Path) -> bool:
    """Run a world, print its rows of the table, and return whether its verdict is right."""
    began = time.monotonic()
    outcome = run(world.make(folder / world.name, base))
    wrong = problems(world, outcome)
    seconds = f"{time.monotonic() - began:.0f} s"
    print(f"{'WRONG' if wrong else 'ok':<6}{world.name:<24}{world.expected():<46}{given(outcome)!s:<46}{seconds:>6}")
    _indented(world.contents)
    for check in outcome.no():
        if check.kind != "warns" or check.name in world.warned:
            _indented(f"{check.name}: {check.message}")
    for problem in (*wrong, *(f"{step} failed: {message}" for step, message in outcome.failed)):
        _indented(f"WRONG: {problem}")
    if world.says:
        _indented(outcome.verdict)
    sys.stdout.flush()
    return not wrong


def _indented(text: str) -> None:
    print(textwrap.fill(text, 124, initial_indent=" " * 6, subsequent_indent=" " * 8))


def main() -> int:
    """Judge the worlds asked for and print the table, or simulate."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=Path, nargs="?", help="Empty; the worlds are made in it.")
    options.add_argument("--only", default=",".join(WORLDS), help="Names of worlds.")
    options.add_argument("--base", type=Path, help="A base model made before, to save minutes.")
    options.add_argument("--null", type=int, metavar="CANDIDATES", help="Simulate instead.")
    chosen = options.parse_args()
    if chosen.null:
        print(null_report(chosen.null), end="")
        return 0
    if chosen.folder is None:
        options.error("name a folder, or --null")
    folder = chosen.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        options.error(f"{folder} is not empty")
    if unknown := set(chosen.only.split(",")) - set(WORLDS):
        options.error(f"no such world: {', '.join(sorted(unknown))}; there are {', '.join(WORLDS)}")
    began = time.monotonic()
    base = chosen.base.absolute() if chosen.base else make_verdict_base(folder / "base")
    print(f"{'':<6}{'world':<24}{'expected':<46}{'given':<46}{'time':>6}")
    worlds = [WORLDS[name] for name in chosen.only.split(",")]
    wrong = [world.name for world in worlds if not judge(world, folder, base)]
    print(f"\n{len(worlds) - len(wrong)} of {len(worlds)} verdicts are right; {time.monotonic() - began:.0f} s")
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
