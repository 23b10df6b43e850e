"""Cross-field rules of a task spec. Each ``check_*`` returns findings; :func:`check_all` runs them all.

A function here is found by its name: adding one is enough.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec


def _finding(rule: str, key: str, message: str, fix: str, severity: str = "error") -> Finding:
    return Finding(f"spec.{rule}", severity, f"task.yaml: {key}", message, fix)  # type: ignore[arg-type]


def check_split_shares(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Half of the rows at least must be left to train on."""
    rest = 1 - spec.split.validation - spec.split.test
    if rest >= 0.5:
        return []
    return [
        _finding(
            "split_shares",
            "split",
            f"validation + test leave {rest:.2f} for training, under 0.50",
            "lower split.validation or split.test",
        )
    ]


def check_labels_unique(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Labels that differ only in case or blanks cannot be told apart in answers."""
    seen = Counter(" ".join(label.split()).casefold() for label in spec.labels)
    return [
        _finding(
            "labels_unique",
            "output.labels",
            f"{n} labels read as {name!r} once case and blanks are ignored",
            "rename or remove one of them",
        )
        for name, n in seen.items()
        if n > 1
    ]


def check_batches(spec: TaskSpec, folder: Path) -> list[Finding]:
    """The optimiser step is made of whole micro-batches."""
    t = spec.training
    if t.batch_size % t.micro_batch_size == 0:
        return []
    return [
        _finding(
            "batches",
            "training.micro_batch_size",
            f"micro_batch_size {t.micro_batch_size} does not divide batch_size {t.batch_size}",
            f"use a divisor of {t.batch_size}",
        )
    ]


def check_shots(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Shots are counts; zero-shot must be among them, since it is what users try first."""
    found = []
    if any(k < 0 for k in spec.baseline.shots):
        found.append(_finding("shots", "baseline.shots", "a number of shots is negative", "use 0 or more"))
    if 0 not in spec.baseline.shots:
        found.append(_finding("shots", "baseline.shots", "zero-shot prompting is not among the baselines", "add 0"))
    return found


def check_raw_inside_folder(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A spec may only read below its own folder: task folders are shared, and a glob is no way out of one."""
    bad = [g for g in [*spec.data.raw, spec.logs.path] if Path(g).is_absolute() or ".." in Path(g).parts]
    return [
        _finding(
            "raw_inside_folder",
            "data.raw / logs.path",
            f"{g!r} points outside the task folder",
            "copy or link the files into the task folder",
        )
        for g in bad
    ]


def check_name_is_folder(spec: TaskSpec, folder: Path) -> list[Finding]:
    """One folder, one name: the name is the asset key prefix and must be found again from the folder."""
    if folder.name == spec.name:
        return []
    return [
        _finding(
            "name_is_folder",
            "name",
            f"name {spec.name!r} differs from the folder's name {folder.name!r}",
            f"set name: {folder.name}",
        )
    ]


def check_cron(spec: TaskSpec, folder: Path) -> list[Finding]:
    """Five cron fields, each within its range."""
    fields = spec.logs.retrain_cron.split()
    limits = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    ok = len(fields) == 5
    if ok:
        for field, (low, high) in zip(fields, limits, strict=True):
            numbers = [n for n in field.replace("*", "").replace("/", ",").replace("-", ",").split(",") if n]
            ok = ok and all(n.isdigit() and (low <= int(n) <= high) for n in numbers)
    if ok:
        return []
    return [
        _finding(
            "cron",
            "logs.retrain_cron",
            f"{spec.logs.retrain_cron!r} is not a cron expression of five fields",
            "for example `0 3 * * 1`: Mondays at three",
        )
    ]


def check_prompt_names_labels(spec: TaskSpec, folder: Path) -> list[Finding]:
    """A prompted base model cannot guess labels it was never told: the baseline would be unfair."""
    missing = [label for label in spec.labels if label not in spec.system_prompt]
    if not missing:
        return []
    return [
        _finding(
            "prompt_names_labels",
            "system_prompt",
            f"the system prompt does not name these labels: {', '.join(missing)}",
            "name every label, or the prompted baseline is not a fair one",
            "warning",
        )
    ]


def check_all(spec: TaskSpec, folder: Path) -> list[Finding]:
    """All findings of all rules, in the order the rules are written."""
    rules = [f for name, f in vars(sys.modules[__name__]).items() if name.startswith("check_") and name != "check_all"]
    return [finding for rule in rules for finding in rule(spec, folder)]
