"""Removes a person's rows: from the logs, from what was taken in, and from every data set made of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.examples import examples_of, stream_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.engine.store import REMOVED, Artifact, ArtifactStore, read_json, write_json
from finetune_pipeline.evaluation.answer_cache import FILE as ANSWERS
from finetune_pipeline.production.intake import LOCK, log_store, take_in
from finetune_pipeline.production.log_erasure import StillWritten, Wanted, erase, holds, writer_of
from finetune_pipeline.production.log_files import LogFile, log_files
from finetune_pipeline.production.log_rows import hash_user, user_key
from finetune_pipeline.production.log_store import ForgottenList
from finetune_pipeline.spec.model import Task

MODELS = ("base_model", "adapter", "merged_model", "model_version", "base_ability", "general_ability")
"""Steps whose artifacts stay: models are blocked, not destroyed."""
PAGES = ("audit.html", "audit.json")
"""Files of a model's artifact that show training rows; they go."""
TAG = "log:"


@dataclass
class Forgotten:
    """What `forget` removed, and the models that were trained on it.

    Attributes:
        rows: Rows removed from the log store now.
        lines: Lines removed from log files now.
        out_of_reach: Log places that nobody here can change; their rows are never taken in again.
        artifacts: What was deleted, as STEP/VERSION or STEP/VERSION/FILE.
        splits: Versions of splits a model may have been trained on with such rows, now or earlier.
        adapters: Versions trained on these.
    """

    rows: int = 0
    lines: int = 0
    out_of_reach: list[str] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)


def forget(task: Task, store: ArtifactStore, users: Iterable[str] = (), ids: Iterable[str] = ()) -> Forgotten:
    """Remove all rows of these users, and the rows with these ids. May be killed and repeated.

    The order makes a repetition safe: what is needed to find the rows again (the list, lineage) is written first, what it
    is found by (the log store) goes last.

    Raises:
        StillWritten: A log file that holds such rows is still being written; nothing but the list has changed.
    """
    take_in(task, store)
    key, kept, done = user_key(store), log_store(task, store), Forgotten()
    with store.lock(task.name, LOCK):
        listed = ForgottenList(kept.folder, key)
        listed.add([hash_user(u, key) for u in users], ids, {})
        listed.add([], {row["id"] for row in kept.rows() if row["kind"] == "row" and listed.holds(row)}, {})
        files, done.out_of_reach = _files(task, listed, key)
        listed.add([], [], _trained_on(task, store))
        done.lines = sum(erase(file, _wanted(listed, key), kept) for file in files)
        done.artifacts = _remove_artifacts(task, store, listed)
        done.rows = kept.rewrite(lambda row: None if listed.holds(row) else row)
        done.splits = sorted(listed.tainted)
    done.adapters = [
        a.version for a in store.all_versions(task.name, "adapter") if a.inputs["train_split"] in listed.tainted
    ]
    return done


def tainted_splits(task: str, store: ArtifactStore) -> set[str]:
    """Versions of splits that hold forgotten rows."""
    return ForgottenList(store.state_folder(task) / "logs", user_key(store)).tainted


def _trained_on(task: Task, store: ArtifactStore) -> dict[str, set[str]]:
    """Log ids among the training and validation rows of all splits there are."""
    trained = {}
    for splits in store.all_versions(task.name, "splits"):
        names = set()
        for split in ("train", "validation"):
            for example in stream_examples(examples_of(splits.folder, split)):
                names |= {tag.removeprefix(TAG) for tag in example.tags if tag.startswith(TAG)}
        trained[splits.version] = names
    return trained


def _wanted(listed: ForgottenList, key: bytes) -> Wanted:
    """A test of a decoded log line: whether it is removed."""

    def wanted(row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        user, name = row.get("user"), row.get("id")
        of_user = user is not None and hash_user(user, key) in listed.users
        return of_user or (isinstance(name, str) and listed.hash_id(name) in listed.ids)

    return wanted


def _files(task: Task, listed: ForgottenList, key: bytes) -> tuple[list[LogFile], list[str]]:
    """(files on this machine that hold such lines, names of places elsewhere). Raises StillWritten."""
    files = log_files(task)
    held = [file for file in files if file.local is not None and holds(file, _wanted(listed, key))]
    written = [f"{file.path}: {writer}" for file in held if (writer := writer_of(file))]
    if written:
        raise StillWritten(
            "log files with such rows are still being written:\n  "
            + "\n  ".join(written)
            + "\nfix: rotate them (rename, and let the writer open a new file) or stop the writer, and run this again; the "
            "rows are not taken in any more"
        )
    return held, sorted({file.shown for file in files if file.local is None})


def _remove_artifacts(task: Task, store: ArtifactStore, listed: ForgottenList) -> list[str]:
    """Delete every artifact that holds such a row or was made of one that does; of models only the pages that show rows."""
    steps = [p.name for p in (store.root / task.name).iterdir() if p.is_dir() and not p.name.startswith(".")]
    artifacts = [a for step in sorted(steps) if step != "state" for a in store.all_versions(task.name, step)]
    bad = {a.version for a in artifacts if _holds(a, listed)}
    while more := {a.version for a in artifacts if a.version not in bad and set(a.inputs.values()) & bad}:
        bad |= more
    # models whose data went in an earlier, interrupted try are known by the list
    pages = bad | {a.version for a in artifacts if a.step == "adapter" and a.inputs["train_split"] in listed.tainted}
    removed = []
    for artifact in artifacts:
        name = f"{artifact.step}/{artifact.version}"
        if artifact.version in bad and artifact.step not in MODELS:
            removed.append(name)
            shutil.rmtree(artifact.folder)
        elif artifact.version in pages:
            shown = [artifact.folder / page for page in PAGES if (artifact.folder / page).exists()]
            removed += [f"{name}/{page.name}" for page in shown]
            if shown:
                write_json(artifact.folder / REMOVED, [page.name for page in shown])
            for page in shown:
                page.unlink()
    if pages:
        for folder in (store.root / task.name / ".work", store.root.parent / "checks" / task.name):
            shutil.rmtree(folder, ignore_errors=True)
        for cache in store.root.parent.rglob(f"{ANSWERS}*"):
            cache.unlink()
    return removed


def _holds(artifact: Artifact, listed: ForgottenList) -> bool:
    """Whether the logs' own artifacts hold a forgotten row; all others are known by their inputs."""
    if artifact.step == "production_logs":
        rows = read_rows(artifact.path("rows.jsonl"))
        bad = read_rows(artifact.path("quarantine.jsonl"))
        return any(listed.holds(row) for row in [*rows, *bad])
    if artifact.step == "test_predictions":
        path = artifact.folder / "production.json"
        return path.exists() and any(listed.hash_id(name) in listed.ids for name in read_json(path)["ids"])
    if artifact.step == "raw_examples":
        path = artifact.folder / "files" / "production.jsonl"
        tags = {t for row in read_rows(path) for t in row["tags"]} if path.exists() else set()
        return any(listed.hash_id(t.removeprefix(TAG)) in listed.ids for t in tags if t.startswith(TAG))
    return False


def trained_models(store: ArtifactStore, task: str, splits: Iterable[str]) -> list[dict[str, Any]]:
    """Released models trained on these splits: {model_version, adapter}."""
    wanted = set(splits)
    records = [read_json(a.path("model_version.json")) for a in store.all_versions(task, "model_version")]
    return [
        {"model_version": record["model_version"], "adapter": record["adapter_version"]}
        for record in records
        if record["dataset_version"] in wanted
    ]
