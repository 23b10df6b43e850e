"""Removes a person's rows: from the logs, from what was taken in, and from every data set made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import Artifact, ArtifactStore, read_json
from finetune_pipeline.data.examples import examples_of, stream_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.evaluation.answer_cache import FILE as ANSWERS
from finetune_pipeline.production.erasing import Needles, sweep
from finetune_pipeline.production.forgotten import Forgotten
from finetune_pipeline.production.intake import LOCK, log_store, take_in
from finetune_pipeline.production.log_erasure import erase
from finetune_pipeline.production.log_files import log_files
from finetune_pipeline.production.log_rows import hash_user, user_key
from finetune_pipeline.production.log_store import LogStore
from finetune_pipeline.spec.model import Task

MODELS = ("base_model", "adapter", "merged_model", "model_version", "base_ability", "general_ability")
"""Steps whose artifacts stay: models are blocked, not destroyed, and hold no rows but in pages that are swept."""
TAG = "log:"


@dataclass
class Forgot:
    """What was done. rows: removed from the log store now; lines: overwritten in log files; places: log places out of reach,
    whose rows are never taken in again; artifacts: data sets removed; splits: versions a model may have been trained on
    with such rows, now or at an earlier time; adapters: versions trained on these."""

    rows: int = 0
    lines: int = 0
    out_of_reach: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    files: int = 0
    splits: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)


def forget(task: Task, store: ArtifactStore, home: Path, users: Iterable[str] = (), ids: Iterable[str] = ()) -> Forgot:
    """Remove all rows of these users, and the rows with these ids. May be killed and repeated.

    home: everything below it is searched for what the rows said, too. The order makes a repetition safe: what is needed to
    find the rows again (the list, lineage) is written first, what it is found by (the log store) goes last.
    """
    take_in(task, store)
    key, kept, told = user_key(store), log_store(task, store), Forgot()
    with store.lock(task.name, LOCK):
        forgotten = Forgotten(kept.folder, key)
        forgotten.add([hash_user(u, key) for u in users], ids, {})
        owned = {row["id"] for row in kept.rows() if row["kind"] == "row" and forgotten.holds(row)}
        forgotten.add([], owned, {})
        rows = [row for row in kept.rows() if forgotten.holds(row)]
        names = {row["id"] for row in rows if "id" in row} | set(ids)
        forgotten.add([], [], _trained_on(task, store))
        told.lines, told.out_of_reach = _from_files(task, kept, forgotten, key)
        told.artifacts = _remove_data(task, store, forgotten)
        needles = Needles(names, [r["user"] for r in rows if r.get("user") in forgotten.users], _texts(rows))
        told.files = sweep(home, needles, lambda path: _is_data(path, store, task.name))
        told.rows = kept.rewrite(lambda row: None if forgotten.holds(row) else row)
        told.splits = sorted(forgotten.tainted)
    told.adapters = [
        a.version for a in store.all_versions(task.name, "adapter") if a.inputs["splits"] in forgotten.tainted
    ]
    return told


def tainted_splits(task: str, store: ArtifactStore) -> set[str]:
    """Versions of splits that hold forgotten rows."""
    return Forgotten(store.state_folder(task) / "logs", user_key(store)).tainted


def _texts(rows: list[dict[str, Any]]) -> list[str]:
    """What the rows say, as far as it can tell one row from others."""
    told = [[row.get("input"), row.get("output"), row.get("correction"), row.get("raw")] for row in rows]
    return [text for texts in told for text in texts if text]


def _trained_on(task: Task, store: ArtifactStore) -> dict[str, set[str]]:
    """Log ids among the training and validation rows of all splits there are."""
    found = {}
    for splits in store.all_versions(task.name, "splits"):
        names = set()
        for split in ("train", "validation"):
            for example in stream_examples(examples_of(splits.folder, split)):
                names |= {tag.removeprefix(TAG) for tag in example.tags if tag.startswith(TAG)}
        found[splits.version] = names
    return found


def _from_files(task: Task, kept: LogStore, forgotten: Forgotten, key: bytes) -> tuple[int, list[str]]:
    lines, away = 0, []

    def wanted(row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        user, name = row.get("user"), row.get("id")
        of_user = user is not None and hash_user(user, key) in forgotten.users
        return of_user or (isinstance(name, str) and forgotten.hash_id(name) in forgotten.ids)

    def renamed(old: str, new: str, tails: list[list[Any]]) -> None:
        ledger = kept.ledger()
        known = [stream for name, stream in ledger["streams"].items() if name.startswith(f"{old}-")]
        number = sum(name.startswith(f"{new}-") for name in ledger["streams"])
        furthest = max(known, key=lambda s: s["offset"], default={"offset": 0, "lines": 0})
        ledger["streams"][f"{new}-{number}"] = {**furthest, "tails": tails}
        kept.append([], ledger)

    for file in log_files(task):
        if file.local is None:
            away.append(file.shown)
        else:
            lines += erase(file, wanted, renamed)
    return lines, sorted(set(away))


def _remove_data(task: Task, store: ArtifactStore, forgotten: Forgotten) -> list[str]:
    """Remove every artifact that holds such a row or was made of one that does, models excepted."""
    steps = [p.name for p in (store.root / task.name).iterdir() if p.is_dir() and not p.name.startswith(".")]
    made = [a for step in sorted(steps) if step != "state" for a in store.all_versions(task.name, step)]
    bad = {a.version for a in made if _holds(a, forgotten)}
    while more := {a.version for a in made if a.version not in bad and set(a.inputs.values()) & bad}:
        bad |= more
    removed = []
    for artifact in made:
        if artifact.version in bad and artifact.step not in MODELS:
            removed.append(f"{artifact.step}/{artifact.version}")
            shutil.rmtree(artifact.folder)
    if bad:
        shutil.rmtree(store.root / task.name / ".work", ignore_errors=True)
        for cache in store.root.parent.rglob(f"{ANSWERS}*"):
            cache.unlink()
    return removed


def _is_data(path: Path, store: ArtifactStore, task: str) -> bool:
    """Whether a file is an artifact that is removed as a whole or not at all, or belongs to the log store itself."""
    if not path.is_relative_to(store.root):
        return False
    owner, step, *_ = (*path.relative_to(store.root).parts, "")
    return owner != task or step not in MODELS


def _holds(artifact: Artifact, forgotten: Forgotten) -> bool:
    """Whether the logs' own artifacts hold a forgotten row; all others are known by their inputs."""
    if artifact.step == "production_logs":
        rows = read_rows(artifact.path("rows.jsonl"))
        bad = read_rows(artifact.path("quarantine.jsonl"))
        return any(forgotten.holds(row) for row in [*rows, *bad])
    if artifact.step == "test_predictions":
        path = artifact.folder / "production.json"
        return path.exists() and any(forgotten.hash_id(name) in forgotten.ids for name in read_json(path)["ids"])
    if artifact.step == "raw_examples":
        path = artifact.folder / "files" / "production.jsonl"
        tags = {t for row in read_rows(path) for t in row["tags"]} if path.exists() else set()
        return any(forgotten.hash_id(t.removeprefix(TAG)) in forgotten.ids for t in tags if t.startswith(TAG))
    return False


def trained_models(store: ArtifactStore, task: str, splits: Iterable[str]) -> list[dict[str, Any]]:
    """Released models trained on these splits: {model_version, adapter}."""
    wanted, found = set(splits), []
    for artifact in store.all_versions(task, "model_version"):
        told = read_json(artifact.path("model_version.json"))
        if told["dataset_version"] in wanted:
            found.append({"model_version": told["model_version"], "adapter": told["adapter_version"]})
    return found
