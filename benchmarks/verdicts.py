"""Whole runs on tasks where the right verdict is known, compared with the verdict that was given.

    python -m benchmarks.verdicts DIR [--only NAME,…] [--base FOLDER]
    python -m benchmarks.verdicts --null 1000

Each task with its settings is a world; they are listed in verdict_list.py. A run is a real `finetune run` with its child
processes, Dagster and MLflow on SQLite, on a model of two layers that was taught some skills (verdict_tasks.py). Exit code 1
if any verdict is wrong, or the advice before training: a "no" that the run refutes, or a "yes" although a gate then lacks rows.
--null trains nothing: it simulates candidates that are exactly as good as their strongest rival,
and lets the gates judge them (null_simulation.py).

Measures: finetune_pipeline/data, finetune_pipeline/baseline, finetune_pipeline/evaluation.
"""

import argparse
import sys
import textwrap
import time
from pathlib import Path

from benchmarks.null_simulation import null_report
from finetune_pipeline_tests.worlds.planted_world import run
from finetune_pipeline_tests.worlds.verdict_list import WORLDS
from finetune_pipeline_tests.worlds.verdict_tasks import make_verdict_base
from finetune_pipeline_tests.worlds.verdict_worlds import KnownWorld, given_verdict, problems_of


def judge(world: KnownWorld, folder: Path, base: Path) -> bool:
    """Run a world and print its lines of the table. Returns whether the verdict is right."""
    began = time.monotonic()
    outcome = run(world.make(folder / world.name, base))
    problems = problems_of(world, outcome)
    seconds = f"{time.monotonic() - began:.0f} s"
    print(
        f"{'WRONG' if problems else 'ok':<6}{world.name:<24}{world.expected():<46}{given_verdict(outcome)!s:<46}{seconds:>6}"
    )
    _indented(world.contents)
    _indented(f"advice before training: {outcome.advice or 'none, the run ended before it'}")
    for check in outcome.failed_checks():
        if check.kind != "warns" or check.name in world.warned:
            _indented(f"{check.name}: {check.message}")
    for problem in (*problems, *(f"{step} failed: {message}" for step, message in outcome.failed_steps)):
        _indented(f"WRONG: {problem}")
    if world.expected_text:
        _indented(outcome.verdict)
    sys.stdout.flush()
    return not problems


def _indented(text: str) -> None:
    print(textwrap.fill(text, 124, initial_indent=" " * 6, subsequent_indent=" " * 8))


def main() -> int:
    """Judge the chosen worlds and print the table, or simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="an empty or new folder to work in")
    parser.add_argument("--only", default=",".join(WORLDS), help="names of worlds")
    parser.add_argument("--base", type=Path, help="a base model made before, which saves minutes")
    parser.add_argument("--null", type=int, metavar="CANDIDATES", help="simulate instead")
    arguments = parser.parse_args()
    if arguments.null:
        print(null_report(arguments.null), end="")
        return 0
    if arguments.folder is None:
        parser.error("name a folder, or --null")
    folder = arguments.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    if unknown := set(arguments.only.split(",")) - set(WORLDS):
        parser.error(f"no such world: {', '.join(sorted(unknown))}; there are {', '.join(WORLDS)}")
    began = time.monotonic()
    base = arguments.base.absolute() if arguments.base else make_verdict_base(folder / "base")
    print(f"{'':<6}{'world':<24}{'expected':<46}{'given':<46}{'time':>6}")
    worlds = [WORLDS[name] for name in arguments.only.split(",")]
    wrong = [world.name for world in worlds if not judge(world, folder, base)]
    print(f"\n{len(worlds) - len(wrong)} of {len(worlds)} verdicts are right; {time.monotonic() - began:.0f} s")
    if wrong:
        print(f"wrong: {', '.join(wrong)}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
