"""A small project: its rows, planted faults, runs and their outcomes.

The base is the tests' tiny model with a skill (finetune_pipeline_tests/skilled_model.py): it answers in the right format, at
chance level, and knows 120 facts that have nothing to do with the task. So there is a baseline to beat, a format to break and
something to forget. The task, the order of two words, is one that no simple model can do.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from finetune_pipeline_tests.graph.project import Project, easy_rows
from finetune_pipeline_tests.skilled_model import SYSTEM, facts, other_label, raw_rows

ROOT = Path(__file__).resolve().parents[2]
TASK = "colours"
ROWS = 400
COMMAND_SECONDS = 3600.0
"""Time limit of a command: other processes may hold the only device meanwhile."""
CLEAN: dict[str, Any] = {
    "method": "lora",
    "epochs": 8,
    "batch_size": 16,
    "micro_batch_size": 16,
    "learning_rate": 0.001,
    "precision": "float32",
    "evals_per_epoch": 1,
    "patience": 10,
}
"""Training that teaches the task without side effects."""


class World(Project):
    """A project whose every process plants `fault` (see planted_faults.py) as it starts; none where it is empty."""

    def __init__(self, root: Path, base: Path, seed: int = 0, *, training: dict[str, Any] | None = None, **spec: Any):
        self.fault = ""
        super().__init__(
            root,
            base=base,
            cold=True,  # a warm worker is a copy of a process that has imported everything, without the fault
            **{
                "system_prompt": SYSTEM,
                "split": {"test": 0.3, "validation": 0.1, "seed": seed},
                "ability": {"suite": False, "files": ["items/*.jsonl"]},
                "training": {**CLEAN, "seed": seed, **(training or {})},
                **spec,
            },
        )
        self.write_rows(raw_rows(seed, ROWS))
        (self.folder / "items").mkdir()
        (self.folder / "items" / "known.jsonl").write_text("".join(json.dumps(i) + "\n" for i in facts()))

    def finetune(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> subprocess.CompletedProcess[str]:
        return super().finetune(*arguments, timeout=timeout)

    def environment(self) -> dict[str, str]:
        environment = super().environment()
        if not self.fault:
            return environment
        site = self.root / "site"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(
            "from finetune_pipeline_tests.worlds.planted_faults import plant\n\nplant()\n"
        )
        path = [str(site), str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
        return {**environment, "PYTHONPATH": os.pathsep.join(path), "PLANTED_FAULT": self.fault}


def independent_split_world(folder: Path, base: Path) -> World:
    """The splitter draws every row on its own, though each customer has ten rows."""
    world = World(folder, base)
    world.write_rows([{**row, "group": f"customer {i // 10}"} for i, row in enumerate(raw_rows(0, ROWS))])
    world.fault = "independent_split"
    return world


def forgetting_world(folder: Path, base: Path) -> World:
    """All weights are trained at a high rate: the task is learned, the facts are forgotten."""
    return World(folder, base, training={"method": "full", "epochs": 5, "learning_rate": 0.003})


def broken_form_world(folder: Path, base: Path) -> World:
    """In some of the training rows, a word follows the label."""
    training = {"method": "full", "learning_rate": 0.003}  # CLEAN would not teach both
    world = World(folder, base, training=training, ability={"suite": False})
    world.fault = "broken_form"
    return world


def swapped_training_world(folder: Path, base: Path) -> World:
    """The two labels are swapped in all training rows, after the split."""
    world = World(folder, base)
    world.fault = "swapped_labels"
    return world


def swapped_file_world(folder: Path, base: Path) -> World:
    """One of two raw files, 120 of 400 rows, has the two labels swapped; one word of a text decides."""
    world = World(folder, base)
    world.write_rows(easy_rows(ROWS - 120, 0))
    world.write_rows([{**row, "label": other_label(row["label"])} for row in easy_rows(120, 1)], "b.jsonl")
    return world


@dataclass(frozen=True)
class CheckOutcome:
    """The result of a check in Dagster. kind: blocks (the graph), gate (of `champion`), warns."""

    asset: str
    name: str
    passed: bool
    kind: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """A `finetune run`.

    Attributes:
        code: Exit code.
        failed_steps: Steps that ended in an error, with their messages.
        champion: Version in service after the run.
        promoted: Whether this run put it there.
        decision: Of the report, as its `verdict`; None where the graph ended before it.
        advice: The decision of the advice before training; None where the graph ended before it.
    """

    code: int
    checks: list[CheckOutcome]
    failed_steps: list[tuple[str, str]]
    champion: int | None
    promoted: bool
    decision: str | None = None
    verdict: str = ""
    advice: str | None = None

    def failed_checks(self, kind: str = "") -> list[CheckOutcome]:
        """Checks that failed, of one kind or of all."""
        return [c for c in self.checks if not c.passed and kind in ("", c.kind)]


def run(world: World) -> Outcome:
    """Run `finetune run`, and read its outcome from its answer, Dagster and MLflow."""
    before = _champion(world)
    code, answer = world.run()
    after = _champion(world)
    failed_steps = [(step["step"], step["message"]) for step in answer.get("failed", [])]
    promoted = after is not None and after != before
    checks = _checks(world, answer["run_id"])
    decision, verdict = answer.get("decision"), answer.get("verdict") or ""
    return Outcome(code, checks, failed_steps, after, promoted, decision, verdict, _advice(world))


def _advice(world: World) -> str | None:
    from finetune_pipeline.engine.store import ArtifactStore

    advice = ArtifactStore(world.home / "artifacts").newest(TASK, "advice")
    return advice.facts["advice"]["decision"] if advice else None


@contextlib.contextmanager
def _environment_of(world: World) -> Iterator[None]:
    from finetune_pipeline.cli.output import apply_environment

    with patch.dict(os.environ, world.environment(), clear=True):
        apply_environment()
        yield


def _champion(world: World) -> int | None:
    from finetune_pipeline.tracking import registry
    from finetune_pipeline.tracking.tracking import Tracking

    if not (world.home / "mlflow").exists():
        return None
    with _environment_of(world):
        return registry.champion(Tracking(), TASK)


def _checks(world: World, run_id: str | None) -> list[CheckOutcome]:
    import dagster as dg

    from finetune_pipeline.settings import read_settings

    if run_id is None:
        return []
    with _environment_of(world), dg.DagsterInstance.from_config(str(read_settings().project)) as instance:
        events = [r.dagster_event for r in instance.all_logs(run_id) if r.dagster_event]
    results = [e.event_specific_data for e in events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    return [
        CheckOutcome(
            e.asset_key.path[-1],
            e.check_name,
            e.passed,
            "warns" if e.severity is dg.AssetCheckSeverity.WARN else "blocks" if e.blocking else "gate",
            e.description or "",
        )
        for e in results
        if isinstance(e, dg.AssetCheckEvaluation)
    ]
