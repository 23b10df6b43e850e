"""A folder that this machine and a cluster both reach: a shared folder, or a place in an object store behind an fsspec URL.

Credentials come from the environment of whoever opens it; nothing of them is part of the address.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import Finding

if TYPE_CHECKING:
    import fsspec

_WHOLE = ".complete"
"""Behind a folder's name: the file that is written after everything in the folder."""


def storage_findings(key: str, address: str) -> list[Finding]:
    """What speaks against an address of a storage, found without opening it. key: where task.yaml has it."""
    from fsspec import get_filesystem_class

    place, parts = f"task.yaml: {key}", urlsplit(address)
    if "://" not in address:
        if Path(address).is_absolute():
            return []
        message = f"{address!r} is a relative path, which means another folder on each machine"
        fix = "write it from / on, or write a URL"
    elif parts.username or parts.password:
        message, fix = "the address holds a login", "leave it out, and set the credentials in the environment"
    else:
        try:
            get_filesystem_class(parts.scheme)
            return []
        except ImportError as error:
            message, fix = str(error), f"install it for {parts.scheme}://"
        except ValueError:
            message, fix = f"fsspec knows no storage {parts.scheme}://", "write s3://…, gs://… or a folder"
    return [Finding("training.storage", "error", place, message, fix)]


class Storage:
    """Files and folders below an address. A folder counts once all of it is there."""

    def __init__(self, address: str) -> None:
        """Open a storage; nothing is made there yet. Raises OutsideError where the library for this kind of address is missing."""
        from fsspec.core import url_to_fs

        self.address = address.rstrip("/")
        try:
            fs, root = url_to_fs(self.address, use_listings_cache=False) if "://" in address else url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise OutsideError(f"the storage {address} cannot be opened: {error}") from error
        self.fs: fsspec.AbstractFileSystem = fs
        self.root = root.rstrip("/")

    def below(self, name: str) -> Storage:
        """The storage of a folder in this one."""
        return Storage(f"{self.address}/{name}")

    def path(self, name: str) -> str:
        """A file's path as the file system knows it."""
        return f"{self.root}/{name}"

    def put(self, file: Path, name: str) -> None:
        self._make_room(name)
        self.fs.put_file(str(file), self.path(name))

    def put_folder(self, folder: Path, name: str, files: Iterable[Path] | None = None) -> None:
        """Bring a folder there. files: those of it that are meant; None: all."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file()) if files is None else files:
            self.put(file, f"{name}/{file.relative_to(folder).as_posix()}")
        self.write_json(name + _WHOLE, {})

    def has_folder(self, name: str) -> bool:
        """Whether all of a folder is there."""
        return bool(self.fs.exists(self.path(name + _WHOLE)))

    def get(self, name: str, target: Path) -> None:
        """Bring a file, or a folder with all its files, here. Raises OutsideError where there is nothing of this name."""
        path = self.path(name)
        if self.fs.isfile(path):
            files = {path: target}
        else:
            paths = self.fs.find(path) if self.fs.exists(path) else []
            files = {file: target / file.removeprefix(path).lstrip("/") for file in paths}
        if not files:
            raise OutsideError(f"{self.address}/{name} is missing; fix: run the step again, which brings it there anew")
        for file, local in files.items():
            local.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(file, str(local))

    def write_json(self, name: str, value: Any) -> None:
        self._make_room(name)
        self.fs.pipe_file(self.path(name), json.dumps(value, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """The value of a JSON file; None where there is none, or only a part of one yet."""
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except (FileNotFoundError, ValueError):
            return None

    def delete(self, name: str = "") -> None:
        """Delete a file or a folder, or (without a name) all that is here."""
        path = self.path(name) if name else self.root
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def _make_room(self, name: str) -> None:
        """Object stores have no folders; others want them first."""
        if not self.address.partition("://")[1] or self.address.startswith("file://"):
            self.fs.makedirs(self.fs._parent(self.path(name)), exist_ok=True)
