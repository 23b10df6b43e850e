"""A complete project with a tiny random model: real graph, child processes, Dagster, and MLflow on SQLite."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import yaml

from finetune_pipeline.pipeline import STEPS
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.shared import copy_database
from finetune_pipeline_tests.skilled_model import CUES, LABELS, WORDS, raw_rows
from finetune_pipeline_tests.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from finetune_pipeline.tracking.tracking import Tracking

LORA = {
    "method": "lora", "epochs": 1, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 0.01, "precision": "float32",
    "evals_per_epoch": 1,
}  # fmt: skip
"""Training settings with one phase; the default has two."""


def rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of the colour task, where the last colour named is the label. No two texts are near-duplicates."""
    return [{**row, "text": f"{row['text']} {i}"} for i, row in enumerate(raw_rows(seed, n))]


def easy_rows(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with only one colour in each text, which a bag-of-words model can learn."""
    rng = random.Random(seed)
    easy = []
    for i in range(n):
        words = rng.sample(WORDS, 7)
        words.insert(rng.randrange(8), CUES[LABELS[i % 2]][0])
        easy.append({"text": f"{' '.join(words)} {i}", "label": LABELS[i % 2]})
    return easy


def install_trainer(path_entry: Path, module: str, source: str) -> None:
    """Install a trainer package into a folder of sys.path as pip would; module and entry point are named `module`."""
    info = path_entry / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (path_entry / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[finetune_pipeline.trainers]\n{module} = {module}\n")


class Project:
    """A data root with the task `colours` and its own home. base: Base model; default: a new tiny model. cold: Start workers as
    users do, and prepare no MLflow database. spec: Keys of task.yaml to change."""

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
            "ability": {"suite": False},  # a random model has no abilities to lose
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
    def continued(cls, source: Self, root: Path, step: str, *, cold: bool = False, **spec: Any) -> Self:
        """A copy of `source` with its artifacts of the steps before `step`, which need not be made again."""
        base = shutil.copytree(source.spec["base_model"], root / "base")  # artifacts refer to it by a relative path
        project = cls(root, base=base, cold=cold, **{"split": source.spec["split"], **spec})
        copy_database(project.home / "mlflow")
        names = [each.name for each in STEPS]
        artifacts, source_artifacts = project.home / "artifacts", source.home / "artifacts"
        shutil.copytree(source_artifacts / "shared", artifacts / "shared")
        for name in ("state", *names[: names.index(step)]):
            if (source_artifacts / "colours" / name).exists():
                shutil.copytree(source_artifacts / "colours" / name, artifacts / "colours" / name)
        if names.index(step) <= names.index("test_predictions"):
            (artifacts / "colours" / "state" / "test_openings.jsonl").unlink(missing_ok=True)
        for key in source_artifacts.glob("*.key"):
            shutil.copy2(key, artifacts / key.name)
        return project

    def move(self, root: Path) -> None:
        """Rename the project's folder."""
        self.root.rename(root)
        self.root, self.home, self.data = root, root / self.home.name, root / "data"
        self.folder = self.data / "colours"

    def write_spec(self, **changes: Any) -> None:
        self.spec.update(changes)
        (self.folder / "task.yaml").write_text(yaml.safe_dump(self.spec, sort_keys=False))

    def write_rows(self, examples: list[dict[str, Any]], name: str = "a.jsonl") -> None:
        (self.folder / "raw" / name).write_text("".join(json.dumps(row) + "\n" for row in examples))

    def environment(self) -> dict[str, str]:
        removed = ("MLFLOW_TRACKING_URI", "DAGSTER_HOME", "FINETUNE_PROGRESS")
        inherited = {name: value for name, value in os.environ.items() if name not in removed}
        warm = {} if self.cold else warm_workers.start()
        folders = {"FINETUNE_DATA": str(self.data), "FINETUNE_HOME": str(self.home)}
        return {**inherited, **warm, **folders, "OMP_WAIT_POLICY": "PASSIVE"}

    def command(self, *arguments: str) -> list[str]:
        """A command line of ``finetune``."""
        start = [sys.executable, "-m", "finetune_pipeline.cli.main"] if self.cold else warm_workers.COMMAND
        return [*start, *arguments]

    def finetune(self, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        command, environment = self.command(*arguments), self.environment()
        return subprocess.run(command, env=environment, timeout=timeout, text=True, capture_output=True, check=False)

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Exit code and output of ``finetune run --json``."""
        process = self.finetune("run", "colours", "--json", *arguments)
        assert process.stdout.strip(), process.stderr[-3000:]
        return process.returncode, json.loads(process.stdout)

    def call(self, function: Callable[[], None]) -> str:
        """The output of a test module's function, called in a separate process with the project's environment."""
        command, environment = warm_workers.call_command(function), {**self.environment(), **warm_workers.start()}
        process = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
        assert process.returncode == 0, process.stderr[-3000:]
        return process.stdout

    @property
    def tracking(self) -> "Tracking":
        from finetune_pipeline.tracking.tracking import Tracking  # takes seconds

        return Tracking(tracking_uri=f"sqlite:///{self.home}/mlflow/mlflow.db")

    def artifact(self, step: str) -> Path:
        """The folder of a step's newest artifact."""
        manifests = self.home.glob(f"artifacts/colours/{step}/*/artifact.json")
        return max(manifests, key=lambda path: path.stat().st_mtime).parent

    def facts(self, step: str) -> dict[str, Any]:
        return json.loads((self.artifact(step) / "artifact.json").read_text())["facts"]


class Finished(NamedTuple):
    """A project after its first run, and the run's exit code and JSON output."""

    project: Project
    code: int
    output: dict[str, Any]
