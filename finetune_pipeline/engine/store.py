"""Content-addressed artifact store: the same inputs give the same version, which appears complete or not at all.

Only their owner can read folders and files, since some contain raw rows. Layout below the store's root::

    <task>/<step>/<version>/            complete artifacts: files and artifact.json, published by one rename
    <task>/.work/<step>/<version>/      unfinished work that can be resumed (checkpoints)
    <task>/.locks/<step>-<version>      one builder at a time; released by the kernel when its process dies
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

from finetune_pipeline.engine.facts import from_json
from finetune_pipeline.engine.files import (
    DamagedFile,
    SeenFiles,
    digest_file,
    digest_json,
    hold,
    hold_if_free,
    read_json,
    sync_folder,
    write_json,
)
from finetune_pipeline.findings import Finding, FindingsError

MANIFEST = "artifact.json"
SKIPPED = "not_made"
"""The fact of an artifact that says why its step made nothing."""
_Facts = TypeVar("_Facts")
_TEMPORARY = ".making-"
CHANGED_ANSWERS = "changed_answers.jsonl"
"""Answers to validation rows that a second stage changed."""
SHOW_ROWS = ("audit.json", "audit.html", CHANGED_ANSWERS)
"""Files of a model's artifact that quote rows. The manifest does not list them, so that they can be deleted when a person is
forgotten and the artifact stays complete."""


@dataclass(frozen=True)
class Artifact:
    """A complete artifact.

    Attributes:
        facts: The step's own counts and scores (plain JSON); :meth:`read` returns them as the type that the step returned.
        inputs: Versions of the input artifacts, by step.
        reused: False only if :meth:`ArtifactStore.build` has just made it.
    """

    task: str
    step: str
    version: str
    folder: Path
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    reused: bool = False

    @property
    def skipped(self) -> str:
        """Why the step made nothing (Step.skipped_by); empty if it did."""
        return str(self.facts.get(SKIPPED, ""))

    def path(self, name: str) -> Path:
        """Return the path of a file of this artifact. Raises FileNotFoundError that names the artifact."""
        file = self.folder / name
        if not file.exists():
            raise FileNotFoundError(f"artifact {self.task}/{self.step}/{self.version} has no {name!r}")
        return file

    def read(self, form: type[_Facts]) -> _Facts:
        """Return the facts as the type that the step's function returned. Raises DamagedFile if they are something else."""
        try:
            return from_json(self.facts, form)
        except ValueError as error:
            raise DamagedFile(
                f"the facts of {self.task}/{self.step}/{self.version} cannot be read: {error}\nfix: delete the folder "
                f"{self.folder} and run the task again"
            ) from error


class _Digest(TypedDict):
    sha256: str


class _Manifest(TypedDict):
    facts: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, _Digest]
    outside: NotRequired[dict[str, str]]


class ChangedArtifact(FindingsError):
    """Raised if files of an artifact have changed since it was made."""


@dataclass
class Builder:
    """The output of a step.

    Attributes:
        folder: Becomes the artifact, with the attributes below in its manifest.
        work: Folder that survives a kill.
        opened: Names of the input steps that were read.
        outside: SHA-256 of files that the artifact refers to without copying them, by path from its folder.
    """

    folder: Path
    work: Path
    facts: dict[str, Any] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)
    outside: dict[str, str] = field(default_factory=dict)


class ArtifactStore:
    """Artifacts of all tasks below one root folder (absolute)."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    def _make_root(self) -> None:
        """Create the root, and the folder around it closed to other users, whatever the umask."""
        if not self.root.exists():
            self.root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.mkdir(exist_ok=True)

    def version(self, step: str, code_version: str, inputs: Mapping[str, str], settings: Any) -> str:
        """Return 16 hex digits from the step's name, its code version, its inputs' versions and the settings it depends on."""
        return digest_json({"step": step, "code": code_version, "inputs": dict(inputs), "settings": settings})[:16]

    def find(self, task: str, step: str, version: str) -> Artifact | None:
        """Return the complete artifact of this version, or None; also None if it refers to missing files.

        Raises:
            ChangedArtifact: Its manifest is damaged.
        """
        folder = self.root / task / step / version
        manifest = folder / MANIFEST
        if not manifest.exists():
            return None
        try:
            record = read_json(manifest, _Manifest)
        except DamagedFile as error:
            raise _changed(folder, f"{MANIFEST} has changed") from error
        if not all((folder / path).exists() for path in record.get("outside", ())):
            return None
        return Artifact(task, step, version, folder, record["facts"], record["inputs"], reused=True)

    def check(self, artifact: Artifact) -> Artifact:
        """Return the artifact after checking its files against the manifest. Unchanged large files are not read again.

        Raises:
            ChangedArtifact: Files are missing or have changed.
        """
        record = read_json(artifact.folder / MANIFEST, _Manifest)
        cache = self.seen_files(artifact.task, "checked_files")
        expected = {artifact.folder / name: entry["sha256"] for name, entry in record["files"].items()}
        expected |= {(artifact.folder / path).resolve(): digest for path, digest in record.get("outside", {}).items()}
        problems = []
        for path, digest in expected.items():
            name = path.relative_to(artifact.folder) if path.is_relative_to(artifact.folder) else path
            if not path.is_file():
                problems.append(f"{name} is gone")
            elif cache.digest(path) != digest:
                problems.append(f"{name} has changed")
        if problems:
            raise _changed(artifact.folder, ", ".join(problems))
        return artifact

    def all_versions(self, task: str, step: str) -> list[Artifact]:
        """Return every complete artifact of a step, oldest first."""
        manifests = sorted((self.root / task / step).glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
        return [artifact for path in manifests if (artifact := self.find(task, step, path.parent.name))]

    def newest(self, task: str, step: str, **inputs: str) -> Artifact | None:
        """Return the newest artifact of a step that was made from these inputs; None if there is none."""
        newest_first = reversed(self.all_versions(task, step))
        return next((artifact for artifact in newest_first if inputs.items() <= artifact.inputs.items()), None)

    def state_folder(self, task: str) -> Path:
        """Return the folder of the task's ledgers (split assignments, openings of the sealed test), creating it if missing."""
        self._make_root()
        folder = self.root / task / "state"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seen_files(self, task: str, name: str = "seen_files") -> SeenFiles:
        """Return a digest cache of the task, by default that of its own files."""
        return SeenFiles(self.root / task / "state" / f"{name}.json")

    def lock(self, task: str, name: str) -> contextlib.AbstractContextManager[None]:
        """Return the named lock of a task, to hold while a block runs (see :func:`hold`)."""
        self._make_root()
        return hold(self.root / task / ".locks" / name)

    def build(
        self,
        task: str,
        step: str,
        *,
        code_version: str,
        inputs: Mapping[str, str],
        settings: Any,
        make: Callable[[Builder], None],
        is_valid: Callable[[Artifact], bool] = lambda artifact: True,
    ) -> Artifact:
        """Return the artifact of these inputs, making it if it does not exist or `is_valid` returns False for it.

        `make` fills ``builder.folder`` and ``builder.facts``. When it returns, the manifest is made durable and one rename
        publishes the folder, so a kill leaves no partial artifact. (After a power failure a file may lack bytes that had not
        reached the disk; the manifest's digests reveal it.) When `make` raises, the folder is removed and ``builder.work`` is
        kept for the next attempt.
        """
        version = self.version(step, code_version, inputs, settings)
        with self.lock(task, f"{step}-{version}"):
            existing = self.find(task, step, version)
            work = self.root / task / ".work" / step / version
            if existing is not None and is_valid(existing):
                shutil.rmtree(work, ignore_errors=True)  # of a process killed after the rename
                return existing
            final = self.root / task / step / version
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers(task, step)
            temporary = final.parent / f"{_TEMPORARY}{version}"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=0o700)
            builder = Builder(temporary, work)
            try:
                make(builder)
                files = _restrict_and_digest(temporary)
                write_json(
                    temporary / MANIFEST,
                    {
                        "task": task,
                        "step": step,
                        "version": version,
                        "code_version": code_version,
                        "inputs": dict(inputs),
                        "settings": json.loads(json.dumps(settings, default=str)),
                        "facts": builder.facts,
                        "opened": builder.opened,
                        "outside": builder.outside,
                        "files": files,
                    },
                )
                sync_folder(temporary)
                (final / MANIFEST).unlink(missing_ok=True)  # without it a partly deleted folder is not an artifact
                shutil.rmtree(final, ignore_errors=True)
                os.rename(temporary, final)
                sync_folder(final.parent)
            except BaseException:
                shutil.rmtree(temporary, ignore_errors=True)
                raise
            shutil.rmtree(work, ignore_errors=True)
            built = self.find(task, step, version)
            assert built is not None
            return replace(built, reused=False)

    def building(self, task: str) -> list[str]:
        """Return the artifacts of the task that processes are making now, as STEP-VERSION."""
        names = []
        for path in sorted((self.root / task / ".locks").glob(f"*-{'[0-9a-f]' * 16}")):
            with hold_if_free(path) as free:
                if not free:
                    names.append(path.name)
        return names

    def _remove_leftovers(self, task: str, step: str) -> None:
        """Remove partial results that killed builders of other versions of this step left.

        A builder holds the lock of its version until it ends, so a free lock means that the builder is dead.
        """
        for leftover in (self.root / task / step).glob(f"{_TEMPORARY}*"):
            lock = self.root / task / ".locks" / f"{step}-{leftover.name.removeprefix(_TEMPORARY)}"
            with hold_if_free(lock) as free:
                if free:
                    shutil.rmtree(leftover, ignore_errors=True)


def _changed(folder: Path, detail: str) -> ChangedArtifact:
    message = f"the artifact is not what was written when it was made: {detail}"
    fix = f"remove {folder} and run the task: it makes the artifact again"
    return ChangedArtifact([Finding("artifact.changed", "error", "/".join(folder.parts[-3:]), message, fix)])


def _restrict_and_digest(folder: Path) -> dict[str, dict[str, object]]:
    """Make a folder's files readable only by their owner, and return each one's digest and size, without SHOW_ROWS."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        if not path.is_symlink() and path.stat().st_nlink == 1:  # a linked file also belongs elsewhere
            path.chmod(0o600)
    paths = [path for path in paths if path.relative_to(folder).as_posix() not in SHOW_ROWS]
    with ThreadPoolExecutor(2) as threads:  # hashing releases the interpreter lock
        digests = list(threads.map(digest_file, paths))
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
