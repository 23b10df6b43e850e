"""Removes a person's rows from the logs and the log store, and deletes everything made from them.

Rows are found by user and id, and artifacts made from them by lineage: the inputs named in an artifact's manifest. Texts are
not searched, and no manifest or registry is edited: an artifact is deleted as a whole or not at all. Models are kept, but
blocked.
"""

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.examples import examples_of, stream_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.review import read_decisions
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import SHOW_ROWS, Artifact, ArtifactStore
from finetune_pipeline.evaluation.answer_cache import FILE as ANSWERS
from finetune_pipeline.evaluation.answer_cache import FOLDER as ANSWERS_FOLDER
from finetune_pipeline.production.intake import LOCK, log_store, take_in
from finetune_pipeline.production.log_erasure import StillWritten, Wanted, count_lines, erase, writer_of
from finetune_pipeline.production.log_files import LogFile, log_files
from finetune_pipeline.production.log_rows import hash_user, user_key
from finetune_pipeline.production.log_store import ForgottenList
from finetune_pipeline.production.used_rows import logged_as, production_examples
from finetune_pipeline.spec.model import Task

MODELS = ("base_model", "adapter", "merged_model", "model_version", "base_ability", "general_ability")
"""Steps whose artifacts are kept: models are blocked, not deleted."""
_TRASH = ".forgotten"
"""Folder of a task into which whole artifacts are moved before they are deleted."""
_DAMAGED = (OSError, ValueError)
"""Errors from reading a damaged artifact. It may contain a person's rows, so it is deleted."""
_BESIDE = ("requests", "judge")
"""Folders of a task's state with files made from an evaluation, whose names contain its version."""


@dataclass(frozen=True)
class Searched:
    """A searched store: its description, the number of matches, and the matches left in a second search."""

    store: str
    found: int
    left: int


@dataclass
class Forgotten:
    """What `forget` removed, and the models that were trained on it.

    Attributes:
        rows, lines: Removed from the log store and from log files now.
        artifacts: Deleted artifacts and files, as STEP/VERSION or STEP/VERSION/FILE.
        splits: Versions of splits with such rows that a model may have been trained on, now or earlier.
        adapters: Versions trained on these splits.
        searched: Every store, as proof.
        decisions: Lines of people's decision files about examples made from these rows, as FILE:LINE. They are kept, since
            people wrote them.
        out_of_reach: Places beyond our reach where such rows may remain, as text.
    """

    rows: int = 0
    lines: int = 0
    artifacts: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    searched: list[Searched] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    out_of_reach: list[str] = field(default_factory=list)


def forget(task: Task, store: ArtifactStore, users: Iterable[str] = (), ids: Iterable[str] = ()) -> Forgotten:
    """Remove all rows of these users, and the rows with these ids. It may be killed and repeated: what is needed to find the
    rows again (the list, lineage) is written first, and the log store, which identifies them, is changed last.

    Raises StillWritten if a log file with such rows, or an artifact of the task, is still being written; only the list has
    changed then.
    """
    take_in(task, store)
    key, kept, done = user_key(store), log_store(task, store), Forgotten()
    with store.lock(task.name, LOCK):
        listed = ForgottenList(kept.folder, key)
        listed.add([hash_user(user, key) for user in users], ids)
        rows = list(kept.rows())
        artifacts = _artifacts(task, store)
        listed.add(ids=_ids_of_users(rows, artifacts, listed))
        touched = {row["id"] for row in rows if "id" in row and listed.holds(row)}
        wanted, files = _wanted(listed, key), log_files(task)
        here = [file for file in files if file.local is not None]
        held = {file: count for file in here if (count := count_lines(file, wanted))}
        _refuse_writers(task, store, held)

        listed.add(tainted=_tainted_splits(artifacts, listed, touched))
        done.decisions = _decisions(task, artifacts, listed, touched)
        bad = _made_of(artifacts, listed, touched)
        done.lines = sum(erase(file, wanted, kept) for file in held)
        done.artifacts = _remove(task, store, artifacts, bad, listed)
        # traces, and feedback to them
        kept.drop_names(lambda name: listed.holds_id(name.removesuffix("/feedback")))
        done.rows = kept.rewrite(lambda row: None if listed.holds(row) else row)
        done.splits = sorted(listed.tainted)

        after, rest = _artifacts(task, store), list(kept.rows())
        lines_left = sum(count_lines(file, wanted) for file in held)
        removed = [a for a in artifacts if a.version in bad and a.step not in MODELS]
        done.searched = [
            Searched(f"lines of {len(here)} log files on this machine", sum(held.values()), lines_left),
            Searched(f"{len(rows)} ingested rows", done.rows, sum(map(listed.holds, rest))),
            Searched(f"{len(artifacts)} artifacts", len(removed), len(_made_of(after, listed, touched) & _data(after))),
        ]
    done.adapters = [a.version for a in after if a.step == "adapter" and a.inputs["train_split"] in listed.tainted]
    done.out_of_reach = _out_of_reach(task, store, files)
    return done


def tainted_splits(task: str, store: ArtifactStore) -> set[str]:
    """Return the versions of splits that contain forgotten rows."""
    return ForgottenList(store.state_folder(task) / "logs", user_key(store)).tainted


def _artifacts(task: Task, store: ArtifactStore) -> list[Artifact]:
    steps = [p.name for p in (store.root / task.name).iterdir() if p.is_dir() and not p.name.startswith(".")]
    return [a for step in sorted(steps) if step != "state" for a in store.all_versions(task.name, step)]


def _data(artifacts: Iterable[Artifact]) -> set[str]:
    return {a.version for a in artifacts if a.step not in MODELS}


def _ids_of_users(rows: list[dict[str, Any]], artifacts: list[Artifact], listed: ForgottenList) -> set[str]:
    """Return the ids of the users' answers, including those that logs.keep_days has removed. Ids also used by another user's
    answer are excluded."""
    users = defaultdict(set)
    shown = []
    for artifact in artifacts:
        if artifact.step == "production_logs":
            with contextlib.suppress(*_DAMAGED):
                shown += read_rows(artifact.path("rows.jsonl"))
    for row in [*(r for r in rows if r["kind"] == "row"), *shown]:
        if row["user"] is not None:
            users[row["id"]].add(row["user"])
    return {name for name, of in users.items() if of <= listed.users}


def _wanted(listed: ForgottenList, key: bytes) -> Wanted:
    """Return a test whether a decoded log line is to be removed."""

    def wanted(row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        user, name = row.get("user"), row.get("id")
        of_user = isinstance(user, str | int | float) and hash_user(user, key) in listed.users
        return of_user or (isinstance(name, str) and listed.holds_id(name))

    return wanted


def _refuse_writers(task: Task, store: ArtifactStore, held: Iterable[LogFile]) -> None:
    """Raise StillWritten if a process is writing to files or artifacts that are about to change."""
    written = [f"{file.path}: {writer}" for file in held if (writer := writer_of(file))]
    if written:
        raise StillWritten(
            "log files with such rows are still being written:\n  "
            + "\n  ".join(written)
            + "\nfix: rotate them (rename, and let the writer open a new file) or stop the writer, and run this again; the "
            "rows are no longer ingested"
        )
    if busy := store.building(task.name):
        raise StillWritten(
            f"a run of {task.name} is making {', '.join(busy)}\nfix: wait for it or cancel it, and run this again; the rows "
            "are no longer ingested"
        )


def _is_theirs(names: Iterable[str], listed: ForgottenList, touched: set[str]) -> bool:
    return any(name in touched or listed.holds_id(name) for name in names)


def _tainted_splits(artifacts: list[Artifact], listed: ForgottenList, touched: set[str]) -> list[str]:
    """Return the versions of splits that are damaged or have such rows among their training and validation rows."""

    def is_tainted(splits: Artifact) -> bool:
        try:
            parts = (stream_examples(examples_of(splits.folder, name)) for name in ("train", "validation"))
            return any(_is_theirs(logged_as(part), listed, touched) for part in parts)
        except _DAMAGED:
            return True

    return [a.version for a in artifacts if a.step == "splits" and is_tainted(a)]


def _examples_of(raw: Artifact, listed: ForgottenList, touched: set[str]) -> set[str]:
    """Return the ids of examples made from such rows."""
    return {e.id for e in production_examples(raw) if _is_theirs(logged_as([e]), listed, touched)}


def _decisions(task: Task, artifacts: list[Artifact], listed: ForgottenList, touched: set[str]) -> list[str]:
    """Return the places of people's decisions about examples made from such rows."""
    examples: set[str] = set()
    for artifact in artifacts:
        if artifact.step == "raw_examples":
            with contextlib.suppress(*_DAMAGED):
                examples |= _examples_of(artifact, listed, touched)
    return [d.place for d in read_decisions(task.folder / "reviews", task.spec)[0] if d.id in examples]


def _made_of(artifacts: list[Artifact], listed: ForgottenList, touched: set[str]) -> set[str]:
    """Return the versions of artifacts that contain such a row, or were made from one that does."""
    bad = {a.version for a in artifacts if _holds(a, listed, touched)}
    while more := {
        a.version
        for a in artifacts
        if a.version not in bad and {*a.inputs.values(), str(a.facts.get("trained_on"))} & (bad | listed.tainted)
    }:
        bad |= more
    return bad


def _holds(artifact: Artifact, listed: ForgottenList, touched: set[str]) -> bool:
    """Whether an artifact made directly from the logs contains such a row, or is too damaged to tell; others are found by their
    inputs."""
    try:
        if artifact.step == "production_logs":
            rows = [*read_rows(artifact.path("rows.jsonl")), *read_rows(artifact.path("quarantine.jsonl"))]
            return any(listed.holds(row) or row.get("id") in touched for row in rows)
        if artifact.step == "test_predictions":
            path = artifact.folder / "production.json"
            return path.exists() and _is_theirs(read_json(path)["ids"], listed, touched)
        return artifact.step == "raw_examples" and bool(_examples_of(artifact, listed, touched))
    except _DAMAGED:
        return True


def _remove(
    task: Task, store: ArtifactStore, artifacts: list[Artifact], bad: set[str], listed: ForgottenList
) -> list[str]:
    """Delete the artifacts made from such rows; of models only the pages that quote rows. Each folder is first moved away by
    one rename, so that a kill leaves no partial artifact; leftovers in the trash are deleted first."""
    root = store.root / task.name
    trash, removed = root / _TRASH, []
    shutil.rmtree(trash, ignore_errors=True)
    trash.mkdir(mode=0o700)
    for artifact in artifacts:
        name = f"{artifact.step}/{artifact.version}"
        if artifact.version in bad and artifact.step not in MODELS:
            removed.append(name)
            os.rename(artifact.folder, trash / name.replace("/", "-"))
        elif artifact.version in bad:
            pages = [page for file in SHOW_ROWS if (page := artifact.folder / file).exists()]
            removed += [f"{name}/{page.name}" for page in pages]
            for page in pages:
                page.unlink()
    if bad or listed.tainted:
        there = _data(artifacts) - bad
        for path in (p for folder in _BESIDE for p in sorted((root / "state" / folder).glob("*"))):
            if path.stem.rpartition("-")[2] not in there:
                removed.append(str(path.relative_to(root)))
                path.unlink()
        for folder in (root / ".work", store.root.parent / "checks" / task.name):
            shutil.rmtree(folder, ignore_errors=True)
        for cache in (store.root / ANSWERS_FOLDER).glob(f"{ANSWERS}*"):
            cache.unlink()
    shutil.rmtree(trash)
    return removed


def _out_of_reach(task: Task, store: ArtifactStore, files: Iterable[LogFile]) -> list[str]:
    """Describe places beyond our reach where such rows may remain."""
    spec, traces = task.spec, task.spec.logs.mlflow_experiment
    asked = (spec.baseline.endpoint, spec.evaluation.endpoint, spec.evaluation.judge)
    hosts = {spec.training.trainer} - {"local"}
    return [
        *(f"{file.shown}: not on this machine; remove the rows there" for file in files if file.local is None),
        *([f"MLflow traces of the experiment {traces!r}: delete them there"] if traces else []),
        *(f"the trainer {host!r}: files and models it keeps" for host in hosts),
        *(f"{service.url}: prompts that the service keeps" for service in asked if service),
        f"{task.folder / 'raw'}: rows copied there by hand have no user and no log id",
        f"{store.root.parent / 'dagster'}: messages and outputs of failed steps may quote rows",
        "folders that `finetune export` wrote, and systems that loaded a model from them",
        "sheets and pages that `finetune review` and `finetune ask-data --to` wrote into other folders",
        "backups and copies of any of these",
    ]


def trained_models(store: ArtifactStore, task: str, splits: Iterable[str]) -> list[dict[str, Any]]:
    """Return the released models trained on these splits: {model_version, adapter}."""
    wanted = set(splits)
    records = [read_json(a.path("model_version.json")) for a in store.all_versions(task, "model_version")]
    return [
        {"model_version": record["model_version"], "adapter": record["adapter_version"]}
        for record in records
        if record["dataset_version"] in wanted
    ]
