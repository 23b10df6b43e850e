"""A whole project on a tiny random model: real graph, real child processes, real Dagster and MLflow on SQLite."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from finetune_pipeline.pipeline import STEPS
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.skilled_model import CUES, LABELS, WORDS, question
from finetune_pipeline_tests.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from finetune_pipeline.tracking.tracking import Tracking

LORA = {
    "method": "lora", "epochs": 1, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 0.01, "precision": "float32",
    "evals_per_epoch": 1,
}  # fmt: skip
"""A training in one phase; the usual one has two."""


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Label tickets: both colours are named, and the last one counts. Every text is its own, none is near another."""
    rng = random.Random(seed)
    labels = [LABELS[i % 2] for i in range(n)]
    return [{"text": f"{question(rng, label)} {i}", "label": label} for i, label in enumerate(labels)]


def easy_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """The same with one colour in each text: one word decides, which any model of words learns."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        words = rng.sample(WORDS, 7)
        words.insert(rng.randrange(8), CUES[LABELS[i % 2]][0])
        made.append({"text": f"{' '.join(words)} {i}", "label": LABELS[i % 2]})
    return made


def install_trainer(site: Path, module: str, source: str, group: str = "finetune_pipeline.trainers") -> None:
    """Lay a package with a trainer into a folder of the path, as pip does: module and entry point, all called `module`."""
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{module} = {module}\n")


class Project:
    """A data root with one task, and a home of its own. `cold`: nothing is there already: MLflow's database is made, and
    workers start as they do for users, with every import."""

    def __init__(self, root: Path, *, base: Path | None = None, cold: bool = False, **spec: Any) -> None:
        self.root, self.home, self.data, self.cold = root, root / "home", root / "data", cold
        self.folder = self.data / "colours"
        (self.folder / "raw").mkdir(parents=True)
        base = base or make_tiny_model(root / "base")
        self.spec: dict[str, Any] = {
            "name": "colours",
            "description": "Fire is red, water is blue; the last one named counts.",
            "base_model": str(base),
            "system_prompt": "Answer red or blue.",
            "output": {"kind": "labels", "labels": LABELS},
            "data": {"min_examples": 60, "min_per_label": 20},
            "ability": {"suite": False},  # a random model knows nothing that could be lost
            "robustness": {"rows": 0},
            "baseline": {"shots": [0, 2], "max_new_tokens": 6, "batch_size": 8},
            "training": {**LORA, "method": "qlora", "unquantized_epochs": 1, "evals_per_epoch": 2},
            **spec,
        }
        self.write_spec()
        self.write_rows(rows(120))
        if not cold:
            copy_database(self.home / "mlflow")

    @classmethod
    def continued(cls, done: Self, root: Path, step: str, *, cold: bool = False, **spec: Any) -> Self:
        """A project like `done`, with the artifacts of its steps before `step`: what is not remade costs nothing."""
        base = shutil.copytree(done.spec["base_model"], root / "base")  # where artifacts lead, seen from their place
        made = cls(root, base=base, cold=cold, **{"split": done.spec["split"], **spec})
        copy_database(made.home / "mlflow")
        names = [each.name for each in STEPS]
        ours, theirs = (project.home / "artifacts" for project in (made, done))
        shutil.copytree(theirs / "shared", ours / "shared")
        for name in ("state", *names[: names.index(step)]):
            if (theirs / "colours" / name).exists():
                shutil.copytree(theirs / "colours" / name, ours / "colours" / name)
        if step in names[: names.index("test_predictions") + 1]:
            (ours / "colours" / "state" / "test_openings.jsonl").unlink(missing_ok=True)
        for key in theirs.glob("*.key"):
            shutil.copy2(key, ours / key.name)
        return made

    def move(self, root: Path) -> None:
        """Rename its folder; the base model stays where it is."""
        self.root.rename(root)
        self.root, self.home, self.data = root, root / self.home.name, root / "data"
        self.folder = self.data / "colours"

    def write_spec(self, **change: Any) -> None:
        self.spec.update(change)
        (self.folder / "task.yaml").write_text(yaml.safe_dump(self.spec, sort_keys=False))

    def write_rows(self, made: list[dict[str, Any]], name: str = "a.jsonl") -> None:
        (self.folder / "raw" / name).write_text("".join(json.dumps(r) + "\n" for r in made))

    def environment(self) -> dict[str, str]:
        ours = ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "FINETUNE_PROGRESS")
        env = {k: v for k, v in os.environ.items() if k not in ours}
        warm = {} if self.cold else warm_workers.start()
        places = {"FINETUNE_DATA": str(self.data), "FINETUNE_HOME": str(self.home)}
        return {**env, **warm, **places, "OMP_WAIT_POLICY": "PASSIVE"}

    def command(self, *arguments: str) -> list[str]:
        start = [sys.executable, "-m", "finetune_pipeline.cli.main"] if self.cold else warm_workers.COMMAND
        return [*start, *arguments]

    def finetune(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        command, how = self.command(*arguments), {"text": True, "capture_output": True, "check": False}
        return subprocess.run(command, env=self.environment(), timeout=timeout, **how)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """``finetune run --json``: exit code and what it told. Asserts that it told something."""
        done = self.finetune("run", "colours", "--json", *arguments)
        assert done.stdout.strip(), done.stderr[-3000:]
        return done.returncode, json.loads(done.stdout)

    def call(self, function: Callable[[], None]) -> str:
        """What a function of a test prints, called in a process of its own with the project's environment."""
        command = [*warm_workers.CALL, f"{function.__module__}:{function.__name__}", "[]"]
        environment = {**self.environment(), **warm_workers.start()}
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @property
    def tracking(self) -> "Tracking":
        from finetune_pipeline.tracking.tracking import Tracking  # takes seconds

        return Tracking(tracking_uri=f"sqlite:///{self.home}/mlflow/mlflow.db")

    def artifact(self, step: str) -> Path:
        """The folder of the newest artifact of a step."""
        found = self.home.glob(f"artifacts/colours/{step}/*/artifact.json")
        return max(found, key=lambda p: p.stat().st_mtime).parent

    def facts(self, step: str) -> dict[str, Any]:
        return json.loads((self.artifact(step) / "artifact.json").read_text())["facts"]


Finished = tuple[Project, int, dict[str, Any]]
"""A project after its first run, the run's exit code, and its answer."""
