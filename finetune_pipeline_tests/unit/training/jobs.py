"""Training jobs on a tiny model, and processes that run them."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.jobs import Job, TrainJob, write_job
from finetune_pipeline.settings import WORKER_MODULE
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model, write_tiny_examples

ROOT = Path(__file__).resolve().parents[3]
_VARIABLES = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def settings(**changes: Any) -> TrainingSpec:
    """Settings with which a tiny model learns something within seconds."""
    lora = {"r": 4, "alpha": 8, "dropout": changes.pop("dropout", 0.05)}
    defaults = {
        "method": "qlora", "epochs": 2, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 5e-3, "patience": 9,
        "precision": "float32", "max_tokens": 200, "lora": lora,
    }  # fmt: skip
    return TrainingSpec.model_validate(defaults | changes)


def task(settings: TrainingSpec | Mapping[str, Any], **spec: Any) -> TaskSpec:
    """A spec with these training settings. spec: Other keys of task.yaml."""
    required = {"name": "demo", "description": "d", "system_prompt": SYSTEM, "training": dict(settings)}
    return TaskSpec.model_validate({**required, "output": {"kind": "labels", "labels": LABELS}, **spec})


def make_inputs(folder: Path, rows: int = 40) -> Path:
    """Write folder/base, folder/train.jsonl and folder/validation.jsonl. Returns `folder`."""
    make_tiny_model(folder / "base")
    write_tiny_examples(folder / "train.jsonl", range(rows))
    write_tiny_examples(folder / "validation.jsonl", range(rows, rows + 12))
    return folder


def job(inputs: Path, folder: Path, declared: TrainingSpec | None = None, **changes: Any) -> TrainJob:
    """A training job with results in folder/out. declared: Its settings; default: :func:`settings` with `changes`."""
    return TrainJob(
        base=inputs / "base", train=inputs / "train.jsonl", validation=inputs / "validation.jsonl",
        settings=declared or settings(**changes), out=folder / "out", work=folder / "work",
    )  # fmt: skip


def start(job: Job, folder: Path, *, cold: bool = False, **environment: str) -> subprocess.Popen[str]:
    """Start the job in a worker process with its own session. cold: Start it as users do, without a warm worker."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "job.json"
    write_job(path, job)
    warm = {} if cold else warm_workers.start()
    env = {**os.environ, **_VARIABLES, **warm, **environment}
    command = [sys.executable, "-m", env.get("FINETUNE_WORKER_MODULE", WORKER_MODULE), str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=env, text=True, stdout=pipe, stderr=pipe, start_new_session=True)


def call(
    function: Callable[..., Any], *arguments: Any, seconds: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Call a function of a test module in a separate process. arguments: Must be JSON. seconds: Timeout."""
    command, env = warm_workers.call_command(function, *arguments), {**os.environ, **_VARIABLES, **warm_workers.start()}
    return subprocess.run(command, env=env, text=True, capture_output=True, timeout=seconds, check=False)


def call_together(function: Callable[..., Any], *arguments: Sequence[Any]) -> None:
    """Call a function as :func:`call` does, in as many processes at once as there are lists of arguments."""
    env = {**os.environ, **_VARIABLES, **warm_workers.start()}
    commands = [warm_workers.call_command(function, *some) for some in arguments]
    processes = [subprocess.Popen(c, env=env, text=True, stderr=subprocess.PIPE) for c in commands]
    for process in processes:
        code, errors = finish(process)
        assert code == 0, errors


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for the process. Returns (exit code, standard error)."""
    _, errors = process.communicate(timeout=180)
    return process.returncode, errors
