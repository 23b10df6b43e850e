"""Removes a person's rows from the logs, the log store and people's answers, and deletes everything made from them.

Rows are found by user and id, and artifacts made from them by lineage: the inputs named in an artifact's manifest. Texts are
not searched, and no manifest or registry is edited: an artifact is deleted as a whole or not at all. Trained models are only
blocked. Simple models and prompts that contain rows are deleted with their release.
"""

import contextlib
import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.examples import examples_of, stream_examples
from finetune_pipeline.data.json_lines import read_rows
from finetune_pipeline.data.people import PEOPLE, erase_people
from finetune_pipeline.data.preferences.making import PREFERENCES
from finetune_pipeline.data.review import read_decisions
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import SHOW_ROWS, Artifact, ArtifactStore
from finetune_pipeline.evaluation import answer_cache
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.production.key_binding import bound_key
from finetune_pipeline.production.log_erasure import erase, find_lines, writer_of
from finetune_pipeline.production.log_files import LogFile, log_files
from finetune_pipeline.production.log_intake import LOCK, ingest_new_lines
from finetune_pipeline.production.log_owners import Owner, OwnerTest
from finetune_pipeline.production.log_rows import hash_user, ids_of, users_of
from finetune_pipeline.production.log_store import ForgottenList, log_store
from finetune_pipeline.production.used_rows import LOGGED_ANSWERS, log_row_ids, logged_examples
from finetune_pipeline.spec.model import Task

MODELS = (
    "base_model",
    "supervised_adapter",
    "refined_adapter",
    "adapter",
    "merged_model",
    "model_version",
    "base_ability",
    "general_ability",
)
"""Steps whose artifacts are kept: models are blocked, not deleted. A release of a model that contains rows is no such artifact."""
_TRASH = ".forgotten"
"""Folder of a task into which whole artifacts are moved before they are deleted."""
_DAMAGED = (OSError, ValueError)
"""Errors from reading a damaged artifact. It may contain a person's rows, so it is deleted."""
IdTest = Callable[[str], bool]
"""Whether the log row with this id is to be forgotten."""
_STATE_FOLDERS = ("requests", "judge")
"""Folders of a task's state with files made from an evaluation; their names contain its version."""


@dataclass(frozen=True)
class TrainedModel:
    """A released model: its version in MLflow, and its adapter's version."""

    model_version: str
    adapter: str


@dataclass(frozen=True)
class Searched:
    """A searched store: its description, the number of matches, and how many a second search still found."""

    store: str
    found: int
    left: int


@dataclass
class Forgotten:
    """What `forget` removed, and the models that were trained on it.

    Attributes:
        rows: Number of rows removed from the log store.
        lines: Number of lines removed from log files.
        artifacts: Deleted artifacts and files, as STEP/VERSION or STEP/VERSION/FILE.
        splits: Versions of splits, preference rows and second stages with such rows, also from earlier calls.
        adapters: Versions trained on these splits.
        models: The released models trained on these splits.
        searched: Every store that was searched, as proof.
        decisions: Lines of decision files about examples made from these rows, as FILE:LINE. They are kept, since people
            wrote them.
        unclear: Lines that nobody can be found for, as text with file and lines.
        out_of_reach: Places beyond our reach where such rows may remain, as text.
    """

    rows: int = 0
    lines: int = 0
    artifacts: list[str] = field(default_factory=list)
    splits: list[str] = field(default_factory=list)
    adapters: list[str] = field(default_factory=list)
    models: list[TrainedModel] = field(default_factory=list)
    searched: list[Searched] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    out_of_reach: list[str] = field(default_factory=list)


def forget(
    task: Task,
    store: ArtifactStore,
    users: Iterable[str] = (),
    ids: Iterable[str] = (),
    remove_copies: Callable[[set[str]], None] = lambda versions: None,
) -> Forgotten:
    """Remove all rows of these users, and the rows with these ids.

    remove_copies: called with the versions of the artifacts that hold such rows, before these are deleted; it removes what
    was copied out of them. After a kill it is called again.

    It may be killed and repeated: the forget list, by which the rows are found again, is written first, and the log store,
    which has their ids, is changed last. Raises OutsideError if a log file with such rows, or an artifact of the task, is
    still being written; only the forget list has changed then.
    """
    users, ids = [*users], [*ids]
    ingest_new_lines(task, store)
    log_rows, result = log_store(task, store), Forgotten()
    with store.lock(task.name, LOCK):
        key = bound_key(task, store)
        forgotten = ForgottenList(log_rows.folder, key)
        forgotten.add([hash_user(user, key) for user in users], ids)
        rows = log_rows.rows()
        artifacts = _artifacts(task, store)
        forgotten.add(ids=_answer_ids(rows, artifacts, forgotten))
        row_ids = {row["id"] for row in rows if row["kind"] != "bad" and forgotten.holds(row)}

        def is_forgotten(row_id: str) -> bool:
            return row_id in row_ids or forgotten.holds_id(row_id)

        matches, files = _owner_test(forgotten, key), log_files(task)
        searches = {file: find_lines(file, matches, users) for file in files if file.local is not None}
        affected_files = [file for file, lines in searches.items() if lines.count]
        _refuse_writers(task, store, affected_files)

        forgotten.add(
            tainted=[
                *_tainted_splits(artifacts, is_forgotten),
                *_tainted_preferences(artifacts, forgotten, is_forgotten),
            ]
        )
        result.decisions = _decision_places(task, artifacts, is_forgotten)
        affected = _derived_from(artifacts, forgotten, is_forgotten)
        result.lines = sum(erase(file, matches, log_rows) for file in affected_files)
        people = erase_people(task.folder, forgotten.holds_source)
        result.models = _trained_models(artifacts, forgotten)  # some of their releases are removed
        remove_copies(affected)
        result.artifacts = _remove(task, store, artifacts, affected, forgotten)
        log_rows.drop_names(lambda name: forgotten.holds_id(name.removesuffix("/feedback")))  # of traces and feedback
        result.rows = log_rows.rewrite(lambda row: None if forgotten.holds(row) else row)
        result.splits = sorted(forgotten.tainted)

        after, remaining = _artifacts(task, store), log_rows.rows()
        searches |= {file: find_lines(file, matches, users) for file in affected_files}
        lines_left = sum(searches[file].count for file in affected_files)
        artifacts_left = len(_derived_from(after, forgotten, is_forgotten) & _data_versions(after))
        result.searched = [
            Searched(f"lines of {len(searches)} log files on this machine", result.lines, lines_left),
            Searched(f"{len(rows)} ingested rows", result.rows, sum(map(forgotten.holds, remaining))),
            Searched(f"{len(artifacts)} artifacts", len(affected & _data_versions(artifacts)), artifacts_left),
            Searched(
                f"lines of {PEOPLE}/", people.lines, erase_people(task.folder, forgotten.holds_source, count=True).lines
            ),
        ]
        unclear = {file.path: lines.unclear for file, lines in searches.items()}
        result.unclear = _unclear_lines(unclear | people.unclear, remaining)
    result.adapters = [a.version for a in after if a.step == "adapter" and _is_trained_on(a, forgotten.tainted)]
    result.out_of_reach = _out_of_reach(task, store, files)
    return result


def tainted_data(task: Task, store: ArtifactStore) -> set[str]:
    """Return the versions of splits, preference rows and second stages that contain forgotten rows."""
    with store.lock(task.name, LOCK):
        return ForgottenList(log_store(task, store).folder, bound_key(task, store)).tainted


def _artifacts(task: Task, store: ArtifactStore) -> list[Artifact]:
    steps = [p.name for p in (store.root / task.name).iterdir() if p.is_dir() and not p.name.startswith(".")]
    return [a for step in sorted(steps) if step != "state" for a in store.all_versions(task.name, step)]


def _trained_models(artifacts: list[Artifact], forgotten: ForgottenList) -> list[TrainedModel]:
    """Return the released models that were trained or fitted on such rows."""
    records = (read_json(a.path("model_version.json")) for a in artifacts if a.step == "model_version")
    adapters = {a.version for a in artifacts if a.step == "adapter" and _is_trained_on(a, forgotten.tainted)}
    tainted = (r for r in records if r["dataset_version"] in forgotten.tainted or r["adapter_version"] in adapters)
    return [TrainedModel(record["model_version"], record["adapter_version"]) for record in tainted]


def _is_kept(artifact: Artifact) -> bool:
    """Whether an artifact is a model, which is blocked and not deleted."""
    return artifact.step in MODELS and not artifact.facts.get("holds_rows")


def _data_versions(artifacts: Iterable[Artifact]) -> set[str]:
    return {a.version for a in artifacts if not _is_kept(a)}


def _answer_ids(rows: list[dict[str, object]], artifacts: list[Artifact], forgotten: ForgottenList) -> set[str]:
    """Return the ids of the forgotten users' answers, also of those that logs.keep_days has removed, but none that another
    user's answer has too."""
    users = defaultdict(set)
    logged_rows = []
    for artifact in artifacts:
        if artifact.step == "production_logs":
            with contextlib.suppress(*_DAMAGED):
                logged_rows += read_rows(artifact.path("rows.jsonl"))
    for row in [*(r for r in rows if r["kind"] == "row"), *logged_rows]:
        if row["user"] is not None:
            users[row["id"]].add(row["user"])
    return {row_id for row_id, row_users in users.items() if row_users <= forgotten.users}


def _owner_test(forgotten: ForgottenList, key: bytes) -> OwnerTest:
    """Return a test whether a record of a log line is to be removed."""

    def matches(owner: Owner) -> bool:
        is_user = any(hash_user(user, key) in forgotten.users for user in owner.users)
        return is_user or (owner.id is not None and forgotten.holds_id(owner.id))

    return matches


def _unclear_lines(lines: Mapping[str, list[int]], rows: Iterable[dict[str, Any]]) -> list[str]:
    """Describe the lines, of files by path and quarantined in the log store, that nobody can be found for."""
    ingested = defaultdict(list)
    for row in rows:
        if row["kind"] == "bad" and not users_of(row) and not ids_of(row):
            ingested[f"quarantined from {row['source']['file']}"].append(row["source"]["line"])
    return [f"{place}:{_ranges(numbers)}" for place, numbers in sorted({**lines, **ingested}.items()) if numbers]


def _ranges(numbers: Iterable[int]) -> str:
    """Return numbers as text such as 3, 5-9."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _refuse_writers(task: Task, store: ArtifactStore, files: Iterable[LogFile]) -> None:
    """Raise OutsideError if a process is writing to files or artifacts that are about to change."""
    open_files = [f"{file.path}: {writer}" for file in files if (writer := writer_of(file))]
    if open_files:
        raise OutsideError(
            "log files with such rows are still being written:\n  "
            + "\n  ".join(open_files)
            + "\nfix: rotate them (rename, and let the writer open a new file) or stop the writer, and run this again; the "
            "rows are no longer ingested"
        )
    if steps := store.building(task.name):
        raise OutsideError(
            f"a run of {task.name} is making {', '.join(steps)}\nfix: wait for it or cancel it, and run this again; the rows "
            "are no longer ingested"
        )


def _tainted_splits(artifacts: list[Artifact], is_forgotten: IdTest) -> list[str]:
    """Return the versions of splits that are damaged or have such rows among their training and validation rows."""

    def is_tainted(splits: Artifact) -> bool:
        try:
            parts = (stream_examples(examples_of(splits.folder, name)) for name in ("train", "validation"))
            return any(is_forgotten(row_id) for part in parts for row_id in log_row_ids(part))
        except _DAMAGED:
            return True

    return [a.version for a in artifacts if a.step == "splits" and is_tainted(a)]


def _tainted_preferences(artifacts: list[Artifact], forgotten: ForgottenList, is_forgotten: IdTest) -> list[str]:
    """Return the versions of preference rows that are damaged or made from such rows, and of second stages trained on them."""
    made = (a for a in artifacts if a.step == "preference_rows")
    tainted = [a.version for a in made if _contains_row(a, forgotten, is_forgotten)]
    stages = (a for a in artifacts if a.step == "refined_adapter" and a.inputs["preference_rows"] in tainted)
    return [*tainted, *(a.version for a in stages)]


def _is_trained_on(adapter: Artifact, tainted: Collection[str]) -> bool:
    """Whether an adapter was trained on such splits or preferences."""
    return bool({*adapter.inputs.values()} & {*tainted})


def _example_ids(raw: Artifact, is_forgotten: IdTest) -> set[str]:
    """Return the ids of examples made from such rows."""
    return {e.id for e in logged_examples(raw) if any(map(is_forgotten, log_row_ids([e])))}


def _decision_places(task: Task, artifacts: list[Artifact], is_forgotten: IdTest) -> list[str]:
    """Return the places of people's decisions about examples made from such rows."""
    examples: set[str] = set()
    for artifact in artifacts:
        if artifact.step == "raw_examples":
            with contextlib.suppress(*_DAMAGED):
                examples |= _example_ids(artifact, is_forgotten)
    return [d.place for d in read_decisions(task.folder / "reviews", task.spec)[0] if d.id in examples]


def _derived_from(artifacts: list[Artifact], forgotten: ForgottenList, is_forgotten: IdTest) -> set[str]:
    """Return the versions of artifacts that contain such a row, or were made from one that does."""
    affected = {a.version for a in artifacts if _contains_row(a, forgotten, is_forgotten)}
    while made_from_them := {
        a.version
        for a in artifacts
        if a.version not in affected
        and {*a.inputs.values(), str(a.facts.get("trained_on"))} & (affected | forgotten.tainted)
    }:
        affected |= made_from_them
    return affected


def _contains_row(artifact: Artifact, forgotten: ForgottenList, is_forgotten: IdTest) -> bool:
    """Whether an artifact made directly from the logs contains such a row, or is too damaged to tell."""
    try:
        if artifact.step == "production_logs":
            rows = [*read_rows(artifact.path("rows.jsonl")), *read_rows(artifact.path("quarantine.jsonl"))]
            return any(forgotten.holds(row) or any(map(is_forgotten, ids_of(row))) for row in rows)
        if artifact.step == "test_predictions":
            path = artifact.folder / "production.json"
            return path.exists() and any(map(is_forgotten, read_json(path)["ids"]))
        if artifact.step == "preference_rows" and not artifact.skipped:
            return any(map(is_forgotten, _logged_ids(artifact)))
        if artifact.step == "unlabelled_rows" and (artifact.folder / LOGGED_ANSWERS).exists():
            return any(is_forgotten(answer["log"]) for answer in read_rows(artifact.path(LOGGED_ANSWERS)))
        return artifact.step == "raw_examples" and bool(_example_ids(artifact, is_forgotten))
    except _DAMAGED:
        return True


def _logged_ids(preferences: Artifact) -> list[str]:
    """Return the ids of the log rows that preference rows come from."""
    return [row["log"] for row in read_rows(preferences.path(PREFERENCES)) if row.get("log")]


def _remove(
    task: Task, store: ArtifactStore, artifacts: list[Artifact], affected: set[str], forgotten: ForgottenList
) -> list[str]:
    """Delete the affected artifacts; of models only the pages that quote rows. Each folder is first moved into the trash by
    one rename, so that a kill leaves no partial artifact."""
    root = store.root / task.name
    trash, removed = root / _TRASH, []
    was_killed = trash.exists()
    trash.mkdir(mode=0o700, exist_ok=True)
    for leftover in trash.iterdir():
        shutil.rmtree(leftover)
    for artifact in artifacts:
        name = f"{artifact.step}/{artifact.version}"
        if artifact.version in affected and not _is_kept(artifact):
            removed.append(name)
            os.rename(artifact.folder, trash / name.replace("/", "-"))
        elif artifact.version in affected:
            pages = [page for file in SHOW_ROWS if (page := artifact.folder / file).exists()]
            removed += [f"{name}/{page.name}" for page in pages]
            for page in pages:
                page.unlink()
    if affected or forgotten.tainted or was_killed:
        kept_versions = _data_versions(artifacts) - affected
        for path in (p for folder in _STATE_FOLDERS for p in sorted((root / "state" / folder).glob("*"))):
            if path.stem.rpartition("-")[2] not in kept_versions:
                removed.append(str(path.relative_to(root)))
                path.unlink()
        for folder in (root / ".work", store.root.parent / "checks" / task.name):
            shutil.rmtree(folder, ignore_errors=True)
        for cache in (store.root / answer_cache.FOLDER).glob("*.sqlite*"):
            cache.unlink()
    shutil.rmtree(trash)
    return removed


def _out_of_reach(task: Task, store: ArtifactStore, files: Iterable[LogFile]) -> list[str]:
    """Describe places beyond our reach where such rows may remain."""
    spec, traces = task.spec, task.spec.logs.mlflow_experiment
    teacher = spec.teacher.endpoint if spec.teacher else None
    services = (spec.baseline.endpoint, spec.evaluation.endpoint, spec.evaluation.judge, teacher)
    hosts = {spec.training.trainer} - {"local"}
    return [
        *(f"{file.shown}: not on this machine; remove the rows there" for file in files if file.local is None),
        *([f"MLflow traces of the experiment {traces!r}: delete them there"] if traces else []),
        *(f"the trainer {host!r}: files and models it keeps" for host in hosts),
        *(f"{service.url}: prompts that the service keeps" for service in services if service),
        f"{task.folder / 'raw'}: rows copied there by hand have no user and no log id",
        *(
            [
                "files of data.unlabelled, and the answers of the teacher and of people/ to them: they have no user and no log id"
            ]
            if spec.data.unlabelled
            else []
        ),
        f"{store.root.parent / 'dagster'}: messages and outputs of failed steps may quote rows",
        "folders that `finetune export` wrote, and systems that loaded a model from them",
        "sheets and pages that `finetune review` and `finetune report --ask-data --to` wrote into other folders",
        "backups and copies of any of these",
    ]
