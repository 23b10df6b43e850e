"""Finds the benchmark files of the ability section. Training rows that repeat them are removed."""

from __future__ import annotations

import os
from pathlib import Path

from finetune_pipeline.data.dedup.benchmarks import is_benchmark
from finetune_pipeline.evaluation.ability.harness_tasks import read_tasks
from finetune_pipeline.evaluation.ability.items import SUITE
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.model import Task


def ability_files(task: Task) -> list[Path]:
    """Return the benchmark files of a task, sorted. Raises FindingsError for every glob without a match."""
    files, missing = [], []
    for pattern in task.spec.ability.files:
        paths = sorted(p for p in task.folder.glob(pattern) if p.is_file())
        files += paths
        if not paths:
            message, fix = f"{pattern!r} matches no file", "correct or remove the pattern"
            missing.append(Finding("ability.files", "error", "task.yaml: ability.files", message, fix))
    if missing:
        raise FindingsError(missing)
    return sorted(set(files))


def asked_files(task: Task) -> list[tuple[str, Path]]:
    """Return (name, path) of the files with questions besides the task, which no row may repeat: the shipped suite,
    ability.files, and data of lm-evaluation-harness tasks that can be read as a benchmark."""
    tasks = read_tasks(task.folder, task.spec.ability.harness.tasks)
    files = [*ability_files(task), *sorted({path for task_file in tasks for path in task_file.files})]
    folder = task.folder.resolve()
    # links keep their names, whose suffix determines the format
    files = [path.parent.resolve() / path.name for path in files]
    named = {f"ability/{os.path.relpath(path, folder).replace('..', '_')}": path for path in files}
    shipped = {"ability/suite.jsonl": SUITE} if task.spec.ability.suite else {}
    return [(name, path) for name, path in sorted({**named, **shipped}.items()) if is_benchmark(path)]
