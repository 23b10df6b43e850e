"""Splits and base model for the training benchmarks, made by the pipeline's own data stage."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.models.chat_templates import NAMED
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.worker.jobs import base_job

ROOT = Path(__file__).resolve().parents[1]
INSTRUCTIONS = {
    "name": "instructions",
    "description": "Instructions, maybe with an input, and short answers; no text that all rows share.",
    "system_prompt": "Follow the instruction.",
    "output": {"kind": "text"},
    "data": {"raw": ["raw/*.json"], "contradictions": "warn"},
    "training": {"method": "lora", "epochs": 1, "max_tokens": 512},
}


def child(script: str | None, *arguments: str, threads: int = 1, module: str | None = None) -> None:
    """A fresh Python process on this package; what it prints goes to standard error, which is no report's. Raises
    CalledProcessError if it fails."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
    env = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    what = ["-m", module] if module else [str(script)]
    subprocess.run([sys.executable, *what, *arguments], check=True, env=env, stdout=sys.stderr)


def make_base(folder: Path, template: str | None = None, base_model: str = "bundled/smollm2-135m-instruct") -> Path:
    """The base model's folder, as the ``base_model`` step makes it; `template`: a chat template by name."""
    out = folder / (f"base-{template}" if template else "base")
    if not (out / "model.json").exists():
        text = NAMED[template] if template else None
        write_json(folder / "base.json", base_job(base_model=base_model, revision=None, out=out, chat_template=text))
        child(None, str(folder / "base.json"), module="finetune_pipeline.worker.entry")
    return out


def make_splits(folder: Path, raw: Path | None) -> tuple[Path, Path, dict[str, Any]]:
    """(train, validation, settings of training): of data/ticket_triage, or of the instruction file `raw`.

    The system prompt that every task must have is taken out of the instructions again: with the template ``chatml``,
    which has none of its own, the rows then share nothing but the marks that open the user's turn.
    """
    source = folder / ("ticket_triage" if raw is None else "instructions")
    if not source.exists():
        if raw is None:
            shutil.copytree(ROOT / "data" / "ticket_triage", source)
        else:
            (source / "raw").mkdir(parents=True)
            shutil.copyfile(raw, source / "raw" / "instructions.json")
            (source / "task.yaml").write_text(yaml.safe_dump(INSTRUCTIONS, sort_keys=False))
    task = load_task(source)
    store = ArtifactStore(folder / "store")
    made = PIPELINE.run_to("splits", task, collect_run_inputs(task, None, store), store)["splits"]
    train, validation = (made.folder / split / "examples.jsonl" for split in ("train", "validation"))
    if raw is not None:
        train, validation = (_without_system(f, source / f"{f.parent.name}.jsonl") for f in (train, validation))
    return train, validation, task.spec.training.model_dump()


def _without_system(file: Path, out: Path) -> Path:
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    for row in rows:
        row["messages"] = [m for m in row["messages"] if m["role"] != "system"]
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return out


def first_rows(file: Path, out: Path, rows: int | None) -> Path:
    """`file`, or a copy of its first `rows` lines."""
    if not rows:
        return file
    lines = file.read_text("utf-8").splitlines(keepends=True)[:rows]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(lines), "utf-8")
    return out


def messages(file: Path) -> list[list[dict[str, str]]]:
    """The chats of a split, as TRL takes them."""
    rows = [json.loads(line)["messages"] for line in file.read_text("utf-8").splitlines()]
    return [[{"role": m["role"], "content": m["content"]} for m in row] for row in rows]


__all__ = ["ROOT", "child", "first_rows", "make_base", "make_splits", "messages", "read_json"]
