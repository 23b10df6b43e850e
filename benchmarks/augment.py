"""What training.augment costs and closes on the shipped tasks: `finetune run` with it and without it, side by side.

    python benchmarks/augment.py FOLDER [TASK …] [--epochs 4] [--base FOLDER]

Each task (default: ticket_triage, order_intake) is copied twice into FOLDER, trained by LoRA for the given epochs and asked
all test rows and all rows that a perturbation can change. What is made is kept, so that a run that was stopped goes on.
Gates that would stop the training only warn; the few-shot baselines and the questions besides the task are left out.

Printed for each task: seconds of training and of the whole run, and per kind of row the metric with its drop against the
plain rows (as the gate `robust` measures it), then the paired gain of augmenting, each with its interval.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.data.perturbations import KINDS, TITLES, set_name
from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.predictions import of_model, read_predictions
from finetune_pipeline.evaluation.robustness import robustness
from finetune_pipeline.evaluation.wording import percent, percent_range, points, points_range
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.model import TaskSpec

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ("ticket_triage", "order_intake")
VARIANTS = {"plain": False, "augmented": True}
ALL_ROWS = 100_000


@dataclass(frozen=True)
class Outcome:
    """One trained variant.

    Attributes:
        spec: What was run.
        predictions: Rows of the candidate, plain and perturbed.
        augmented: Facts of the training: {rows, kinds, too_long}.
        train_seconds: Wall clock of the training loop.
        cpu_seconds: Processor time of the training process.
        run_seconds: Wall clock of `finetune run`; less where it went on from an earlier one.
        code: Its exit code.
    """

    spec: TaskSpec
    predictions: list[dict[str, Any]]
    augmented: dict[str, Any]
    train_seconds: float
    cpu_seconds: float
    run_seconds: float
    code: int


def make_task(task: str, folder: Path, augment: bool, epochs: float, base: Path | None) -> None:
    """Copy a shipped task to FOLDER/data with this training; a spec that is there already stays if it is the same."""
    target = folder / "data" / task
    if not target.exists():
        shutil.copytree(ROOT / "data" / task, target)
    spec = yaml.safe_load((ROOT / "data" / task / "task.yaml").read_text("utf-8"))
    if base is not None:
        spec["base_model"] = str(base.resolve())
    spec["training"] = {"method": "lora", "epochs": epochs, "augment": augment}
    spec["baseline"] = {"shots": [0], "retrieved": 0}
    spec["ability"] = {"suite": False}
    spec["robustness"] = {"rows": ALL_ROWS, "action": "warn"}
    spec["gates"] = {"worth_training": "warn", "learnable": "warn"}
    text = yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)
    path = target / "task.yaml"
    if path.read_text("utf-8") != text:  # a touched file would be read anew
        path.write_text(text, "utf-8")


def run(task: str, folder: Path) -> tuple[int, float]:
    """`finetune run`. Returns its exit code and seconds; raises RuntimeError where it broke."""
    environment = {
        **os.environ,
        "FINETUNE_DATA": str(folder / "data"),
        "FINETUNE_HOME": str(folder / "home"),
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    began = time.monotonic()
    command = [sys.executable, "-m", "finetune_pipeline.cli.main", "run", task]
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 2):
        raise RuntimeError(f"{task}: finetune run ended with code {done.returncode}, see above")
    return done.returncode, time.monotonic() - began


def newest(task: str, step: str, folder: Path) -> Path:
    """The folder of a step's newest artifact."""
    made = (folder / "home" / "artifacts" / task / step).glob("*/artifact.json")
    found = max(made, key=lambda path: path.stat().st_mtime, default=None)
    if found is None:
        raise RuntimeError(f"{task}: {step} was not made; a check stopped the run before it")
    return found.parent


def outcome(task: str, folder: Path, augment: bool, epochs: float, base: Path | None) -> Outcome:
    """Train one variant and read what came out."""
    make_task(task, folder, augment, epochs, base)
    code, seconds = run(task, folder)
    adapter = newest(task, "adapter", folder)
    measured = json.loads((adapter / "measured.json").read_text("utf-8"))
    return Outcome(
        spec=load_task(folder / "data" / task).spec,
        predictions=read_predictions(newest(task, "test_predictions", folder) / "predictions.parquet"),
        augmented=json.loads((adapter / "artifact.json").read_text("utf-8"))["facts"]["augmented"],
        train_seconds=measured["train_seconds"],
        cpu_seconds=measured["train_cpu_seconds"],
        run_seconds=seconds,
        code=code,
    )


def show_variant(name: str, done: Outcome) -> None:
    """Seconds, the plain score, and what each perturbation costs."""
    print(
        f"  {name}: training {done.train_seconds:.0f} s ({done.cpu_seconds:.0f} s of processor), whole run "
        f"{done.run_seconds:.0f} s, exit code {done.code}, perturbed copies {done.augmented}"
    )
    plain = of_model(done.predictions, "candidate")
    scored = compare(plain, plain, done.spec.output, done.spec.gates.confidence, done.spec.metric).candidate.primary
    print(
        f"    plain rows: {done.spec.metric} {percent(scored.value)} ({percent_range(scored.interval)}), n {len(plain)}"
    )
    measured = robustness(done.spec, done.predictions)
    assert measured is not None  # rows were asked for
    for kind, scores in measured.kinds.items():
        if scores.n and scores.drop is not None:
            interval = points_range((-scores.interval[1], -scores.interval[0])) if scores.interval else "no interval"
            print(
                f"    {TITLES[kind].lower()}: {percent(scores.perturbed)}, {points(-scores.drop)} points ({interval}), "
                f"n {scores.n}, {scores.lost} lost, {scores.gained} won"
            )
    print(f"    verdict: {measured.verdict.status}")


def show_gains(plain: Outcome, augmented: Outcome) -> None:
    """The augmented candidate minus the plain one, on plain rows (the cost) and on perturbed ones (what it closes)."""
    print("  augmented minus plain, paired:")
    for kind in (None, *KINDS):
        name = "candidate" if kind is None else set_name("candidate", kind)
        before, after = (of_model(done.predictions, name) for done in (plain, augmented))
        if not before:
            continue
        paired = compare(before, after, plain.spec.output, plain.spec.gates.confidence, plain.spec.metric)
        title = "plain rows" if kind is None else TITLES[kind].lower()
        print(f"    {title}: {points(paired.gain)} points ({points_range(paired.interval)}), n {paired.n}")
    ratio = augmented.cpu_seconds / plain.cpu_seconds if plain.cpu_seconds else float("nan")
    print(f"    processor time of training: {ratio:.2f} times", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the tasks asked for. Exit code 1: one of them broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for task copies and artifacts; kept")
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(SHIPPED))
    parser.add_argument("--epochs", type=float, default=4.0)
    parser.add_argument("--base", type=Path, help="a base model folder instead of the task's own")
    given = parser.parse_intermixed_args(arguments)
    tasks = given.tasks or list(SHIPPED)
    if unknown := [task for task in tasks if task not in SHIPPED]:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join(SHIPPED)}")
    broken = False
    for task in tasks:
        print(f"{task}, LoRA, {given.epochs:g} epochs", flush=True)
        done: dict[str, Outcome] = {}
        for name, augment in VARIANTS.items():
            folder = given.folder.resolve() / task / name
            try:
                done[name] = outcome(task, folder, augment, given.epochs, given.base)
            except RuntimeError as error:
                print(error, file=sys.stderr)
                broken = True
                break
            show_variant(name, done[name])
        if len(done) == len(VARIANTS):
            show_gains(done["plain"], done["augmented"])
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
