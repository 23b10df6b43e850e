"""Content-addressed artifact store: the same inputs give the same version, which appears complete or not at all.

Folders and files are readable for their owner alone: some hold rows as people gave them. Layout below the store's root::

    <task>/<step>/<version>/            complete artifacts: files and artifact.json, put there by one rename
    <task>/.work/<step>/<version>/      unfinished work that may be taken up again (checkpoints)
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
from typing import Any, NotRequired, TypedDict

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
_MAKING = ".making-"
SHOW_ROWS = ("audit.json", "audit.html")
"""Files of a model's artifact that quote rows. The manifest does not name them: when a person is forgotten they go, and the
artifact is as whole as before."""


@dataclass(frozen=True)
class Artifact:
    """A complete artifact. `facts` are the step's own counts and scores (plain JSON); `reused`: found, not built."""

    task: str
    step: str
    version: str
    folder: Path
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]
    reused: bool = False

    def path(self, name: str) -> Path:
        """A file of this artifact. Raises FileNotFoundError naming the artifact."""
        file = self.folder / name
        if not file.exists():
            raise FileNotFoundError(f"artifact {self.task}/{self.step}/{self.version} holds no {name!r}")
        return file


class _Digest(TypedDict):
    sha256: str


class _Manifest(TypedDict):
    facts: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, _Digest]
    outside: NotRequired[dict[str, str]]


class ChangedArtifact(FindingsError):
    """Files of an artifact are not what was written when it was made."""


@dataclass
class Builder:
    """The output of a step.

    Attributes:
        folder: Becomes the artifact, with the attributes below in its manifest.
        work: Folder that survives a kill.
        opened: Names of the input steps that were read.
        outside: SHA-256 of files the artifact refers to where they are, by path from its folder.
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

    def version(self, step: str, code_version: str, inputs: Mapping[str, str], settings: Any) -> str:
        """16 hex digits from the step's name, its code version, its inputs' versions and the settings it depends on."""
        return digest_json({"step": step, "code": code_version, "inputs": dict(inputs), "settings": settings})[:16]

    def find(self, task: str, step: str, version: str) -> Artifact | None:
        """The complete artifact of this version, or None; also None if it refers to missing files.

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
        """The artifact itself, its files being what was written. A file's bytes are read once for each of its states.

        Raises:
            ChangedArtifact: Files are missing or changed.
        """
        record, seen = read_json(artifact.folder / MANIFEST, _Manifest), self.seen_files(artifact.task, "checked_files")
        wanted = {artifact.folder / name: entry["sha256"] for name, entry in record["files"].items()}
        wanted |= {(artifact.folder / path).resolve(): digest for path, digest in record.get("outside", {}).items()}
        wrong = [
            f"{path.relative_to(artifact.folder) if path.is_relative_to(artifact.folder) else path} "
            f"{'has changed' if path.is_file() else 'is gone'}"
            for path, digest in wanted.items()
            if not path.is_file() or seen.digest(path) != digest
        ]
        if wrong:
            raise _changed(artifact.folder, ", ".join(wrong))
        return artifact

    def all_versions(self, task: str, step: str) -> list[Artifact]:
        """Every complete artifact of a step, oldest first."""
        manifests = sorted((self.root / task / step).glob(f"*/{MANIFEST}"), key=lambda path: path.stat().st_mtime_ns)
        return [artifact for path in manifests if (artifact := self.find(task, step, path.parent.name))]

    def state_folder(self, task: str) -> Path:
        """Folder of the task's ledgers (split assignments, openings of the sealed test)."""
        folder = self.root / task / "state"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def seen_files(self, task: str, name: str = "seen_files") -> SeenFiles:
        """The remembered digests of the files the task's people keep, or of others under another name."""
        return SeenFiles(self.root / task / "state" / f"{name}.json")

    def lock(self, task: str, name: str) -> contextlib.AbstractContextManager[None]:
        """The named lock of a task, see :func:`hold`."""
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
        stands: Callable[[Artifact], bool] = lambda artifact: True,
    ) -> Artifact:
        """Return the artifact of these inputs, making it first if it does not exist, or is none that `stands`.

        `make` fills ``builder.folder`` and ``builder.facts``; when it returns, the manifest is made durable and the folder
        renamed into place in one step: whoever is killed leaves nothing half made. (What a machine that loses its power had
        not yet written is missing from such a folder; the manifest's digests tell.) When it raises, the folder is removed
        and ``builder.work`` is kept for the next try.
        """
        version = self.version(step, code_version, inputs, settings)
        with self.lock(task, f"{step}-{version}"):
            existing = self.find(task, step, version)
            if existing is not None and stands(existing):
                return existing
            final = self.root / task / step / version
            work = self.root / task / ".work" / step / version
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
            final.parent.mkdir(parents=True, exist_ok=True)
            self._clear_left(task, step)
            making = final.parent / f"{_MAKING}{version}"
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(mode=0o700)
            builder = Builder(making, work)
            try:
                make(builder)
                files = _digests(making)
                write_json(
                    making / MANIFEST,
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
                sync_folder(making)
                (final / MANIFEST).unlink(missing_ok=True)  # a folder without one is none, however little is left of it
                shutil.rmtree(final, ignore_errors=True)
                os.rename(making, final)
                sync_folder(final.parent)
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
            shutil.rmtree(work, ignore_errors=True)
            made = self.find(task, step, version)
            assert made is not None
            return replace(made, reused=False)

    def building(self, task: str) -> list[str]:
        """What processes make of the task at this moment, as STEP-VERSION."""
        busy = []
        for path in sorted((self.root / task / ".locks").glob(f"*-{'[0-9a-f]' * 16}")):
            with hold_if_free(path) as free:
                if not free:
                    busy.append(path.name)
        return busy

    def _clear_left(self, task: str, step: str) -> None:
        """Remove partial results of killed builders of this step's other versions.

        Whoever makes a version holds its lock all the while, so a lock that is free says that its builder is dead.
        """
        for left in (self.root / task / step).glob(f"{_MAKING}*"):
            lock = self.root / task / ".locks" / f"{step}-{left.name.removeprefix(_MAKING)}"
            with hold_if_free(lock) as free:
                if free:
                    shutil.rmtree(left, ignore_errors=True)


def _changed(folder: Path, what: str) -> ChangedArtifact:
    message = f"the artifact is not what was written when it was made: {what}"
    fix = f"remove {folder} and run the task again, which makes it anew"
    return ChangedArtifact([Finding("artifact.changed", "error", "/".join(folder.parts[-3:]), message, fix)])


def _digests(folder: Path) -> dict[str, dict[str, Any]]:
    """Digest and size of the files of a folder, which become their owner's alone."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in paths:
        if not path.is_symlink() and path.stat().st_nlink == 1:  # else they are somebody else's, too
            path.chmod(0o600)
    paths = [path for path in paths if path.relative_to(folder).as_posix() not in SHOW_ROWS]
    with ThreadPoolExecutor(2) as threads:  # hashing holds no interpreter lock
        digests = list(threads.map(digest_file, paths))
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, digests, strict=True)
    }
