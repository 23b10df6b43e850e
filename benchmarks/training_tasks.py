"""Base model, splits and processes for the training benchmarks, made by the pipeline's own steps and worker."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.jobs import BaseJob, Job, write_job
from finetune_pipeline.models.chat_templates import NAMED
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.steps.run_inputs import collect_run_inputs

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = {
    "name": "instructions",
    "description": "Instructions, some with an input, and short answers; the rows share no text.",
    "system_prompt": "Follow the instruction.",
    "output": {"kind": "text"},
    "data": {"raw": ["raw/*.json"], "contradictions": "warn"},
    "training": {"method": "lora", "epochs": 1, "max_tokens": 512},
}


def run_python(*arguments: str, threads: int = 1) -> None:
    """Run Python on this checkout in a new process; its output goes to standard error. Raises CalledProcessError."""
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *arguments], check=True, env=env, stdout=sys.stderr)


def run_job(job: Job, folder: Path, threads: int = 1) -> dict[str, Any]:
    """Run a job in a new process. Returns its measured.json."""
    folder.mkdir(parents=True, exist_ok=True)
    write_job(folder / "job.json", job)
    run_python("-m", "finetune_pipeline.worker.entry", str(folder / "job.json"), threads=threads)
    return dict(read_json(job.out / "measured.json"))


def make_base(folder: Path, template: str | None = None, base_model: str = "bundled/smollm2-135m-instruct") -> Path:
    """Make the base model as the step ``base_model`` does, with a chat template by name. Returns its folder."""
    out = folder / (f"base-{template}" if template else "base")
    if not (out / "model.json").exists():
        chat_template = NAMED[template] if template else None
        run_job(BaseJob(base_model=base_model, revision=None, out=out, chat_template=chat_template), folder)
    return out


def make_splits(folder: Path, instructions: Path | None) -> tuple[Path, Path, TrainingSpec]:
    """Run the data stage of data/ticket_triage, or of an instruction file.

    Every task must have a system prompt; it is removed from the instructions again. With the template ``chatml``, which adds
    none, these rows share only the control tokens that open the user's turn.

    Returns:
        Training file, validation file, training settings.
    """
    source = folder / ("ticket_triage" if instructions is None else "instructions")
    if not source.exists():
        if instructions is None:
            shutil.copytree(ROOT / "data" / "ticket_triage", source)
        else:
            (source / "raw").mkdir(parents=True)
            shutil.copyfile(instructions, source / "raw" / "instructions.json")
            (source / "task.yaml").write_text(yaml.safe_dump(INSTRUCTIONS, sort_keys=False))
    task = load_task(source)
    store = ArtifactStore(folder / "store")
    splits = PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)["splits"]
    train, validation = (splits.folder / name / "examples.jsonl" for name in ("train", "validation"))
    if instructions is not None:
        train, validation = (_without_system(f, source / f"{f.parent.name}.jsonl") for f in (train, validation))
    return train, validation, task.spec.training


def _without_system(file: Path, out: Path) -> Path:
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for row in rows:
        row["messages"] = [m for m in row["messages"] if m["role"] != "system"]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return out
