"""Storage that this machine and a cluster share: a folder, or an object store behind an fsspec URL.

Credentials come from the environment of whoever opens it; nothing of them is part of the address.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import urlsplit

from finetune_pipeline.faults import OutsideError, outside_words
from finetune_pipeline.findings import Finding

if TYPE_CHECKING:
    import fsspec

_WHOLE = ".complete"
"""Suffix of the marker file that is written after everything in a folder."""


def storage_findings(key: str, address: str) -> list[Finding]:
    """What speaks against an address of a storage, found without opening it. key: where task.yaml has it."""
    from fsspec import get_filesystem_class

    scheme, is_url, _ = address.partition("://")
    try:
        if not is_url:
            if Path(address).is_absolute():
                return []
            message = f"{address!r} is a relative path, which means a different folder on each machine"
            fix = "write an absolute path or a URL"
        elif urlsplit(address).username or urlsplit(address).password:
            message, fix = "the address contains credentials", "remove them, and set the credentials in the environment"
        else:
            get_filesystem_class(scheme.lower())
            return []
    except ImportError as error:
        message, fix = str(error), f"install it for {scheme}://"
    except ValueError:
        message, fix = f"fsspec knows no such storage as {scheme}://…", "write s3://…, gs://… or a folder"
    return [Finding("training.storage", "error", f"task.yaml: {key}", message, fix)]


P = ParamSpec("P")
R = TypeVar("R")


def _reaching(method: Callable[Concatenate[Storage, P], R]) -> Callable[Concatenate[Storage, P], R]:
    """Turn what the libraries of object stores raise, where one is out of reach or refuses, into OutsideError."""

    @functools.wraps(method)
    def reached(storage: Storage, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(storage, *args, **kwargs)
        except Exception as error:
            if "://" not in storage.address or outside_words(error, storage.address):
                raise
            raise OutsideError(
                f"the storage {storage.address} cannot be used: {type(error).__name__}: {error!s:.300}\n"
                "fix: see that it can be reached, and that the credentials in the environment are right"
            ) from error

    return reached


class Storage:
    """Files and folders below an address. A folder exists once it is complete. Methods raise OutsideError where an object
    store does not do what is asked."""

    def __init__(self, address: str) -> None:
        """Open a storage; nothing is made there yet. Raises OutsideError where the library for this kind of address is missing."""
        import fsspec
        from fsspec.core import url_to_fs

        self.address = address.rstrip("/")
        try:
            if "://" in address:
                fs, root = url_to_fs(self.address, use_listings_cache=False)
            else:  # of a path, url_to_fs would take :: for a chain of file systems
                fs, root = fsspec.filesystem("file"), str(Path(address).absolute())
        except (ImportError, ValueError) as error:
            raise OutsideError(f"the storage {address} cannot be opened: {error}") from error
        self.fs: fsspec.AbstractFileSystem = fs
        self.root = root.rstrip("/")

    def below(self, name: str) -> Storage:
        """The storage of a folder in this one."""
        return Storage(f"{self.address}/{name}")

    def path(self, name: str) -> str:
        """A file's path in the file system."""
        return f"{self.root}/{name}"

    @_reaching
    def put(self, file: Path, name: str) -> None:
        self._make_room(name)
        self.fs.put_file(str(file), self.path(name))

    def put_folder(self, folder: Path, name: str, files: Iterable[Path] | None = None) -> None:
        """Upload a folder. files: only these; None: all."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file()) if files is None else files:
            self.put(file, f"{name}/{file.relative_to(folder).as_posix()}")
        self.write_json(name + _WHOLE, {})

    @_reaching
    def has_folder(self, name: str) -> bool:
        """Whether a folder is complete."""
        return bool(self.fs.exists(self.path(name + _WHOLE)))

    @_reaching
    def get(self, name: str, target: Path) -> None:
        """Download a file or a folder. Raises OutsideError if it does not exist."""
        path = self.path(name)
        if self.fs.isfile(path):
            files = {path: target}
        else:
            paths = self.fs.find(path) if self.fs.exists(path) else []
            files = {file: target / file.removeprefix(path).lstrip("/") for file in paths}
        if not files:
            raise OutsideError(f"{self.address}/{name} is missing; fix: run the step again, which uploads it again")
        for file, local in files.items():
            local.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(file, str(local))

    @_reaching
    def write_json(self, name: str, value: Any) -> None:
        self._make_room(name)
        self.fs.pipe_file(self.path(name), json.dumps(value, ensure_ascii=False).encode())

    @_reaching
    def read_json(self, name: str) -> Any:
        """The value of a JSON file; None if it is missing or incomplete."""
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except (FileNotFoundError, ValueError):
            return None

    @_reaching
    def delete(self, name: str = "") -> None:
        """Delete a file or a folder, or (without a name) all that is here."""
        path = self.path(name) if name else self.root
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def _make_room(self, name: str) -> None:
        """Create the parent folder; object stores have none."""
        if not self.address.partition("://")[1] or self.address.startswith("file://"):
            self.fs.makedirs(self.fs._parent(self.path(name)), exist_ok=True)
