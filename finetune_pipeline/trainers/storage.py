"""Storage that this machine and a cluster share: a folder, or an object store with an fsspec URL.

Credentials come from the environment of the process that opens it, and are never part of the address.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune_pipeline.faults import OutsideError, outside_words
from finetune_pipeline.findings import Finding

if TYPE_CHECKING:
    import fsspec

_COMPLETE = ".complete"
"""Suffix of the marker file of a complete folder, written last."""


def storage_findings(key: str, address: str) -> list[Finding]:
    """Return findings about a storage's address, without opening the storage. key: its key in task.yaml."""
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


class Storage:
    """Files and folders at an address. A folder exists only when it is complete. Methods raise OutsideError if an object store
    fails."""

    def __init__(self, address: str) -> None:
        """Open a storage without writing to it. Raises OutsideError if the library for this kind of address is missing."""
        import fsspec
        from fsspec.core import url_to_fs

        self.address = address.rstrip("/")
        path = address.removeprefix("file://")
        try:
            if "://" in path:
                fs, root = url_to_fs(self.address, use_listings_cache=False)
            else:  # of a path, url_to_fs would take :: for a chain of file systems
                fs, root = fsspec.filesystem("file", auto_mkdir=True), str(Path(path).absolute())
        except (ImportError, ValueError) as error:
            raise OutsideError(f"the storage {address} cannot be opened: {error}") from error
        self.fs: fsspec.AbstractFileSystem = fs
        self.root = root.rstrip("/")

    def below(self, name: str) -> Storage:
        """Return the storage of a folder in this one."""
        return Storage(f"{self.address}/{name}")

    def path(self, name: str) -> str:
        """Return a file's path in the file system."""
        return f"{self.root}/{name}"

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn exceptions of object stores' libraries (unreachable, access denied) into OutsideError."""
        try:
            yield
        except Exception as error:
            if "://" not in self.address or outside_words(error, self.address):
                raise
            raise OutsideError(
                f"the storage {self.address} cannot be used: {type(error).__name__}: {error!s:.300}",
                "check that it is reachable, and that the credentials in the environment are correct",
            ) from error

    def put(self, file: Path, name: str) -> None:
        with self._errors():
            self.fs.put_file(str(file), self.path(name))

    def put_folder(self, folder: Path, name: str, files: Iterable[Path] | None = None) -> None:
        """Upload a folder. files: only these; None: all."""
        for file in sorted(p for p in folder.rglob("*") if p.is_file()) if files is None else files:
            self.put(file, f"{name}/{file.relative_to(folder).as_posix()}")
        self.write_json(name + _COMPLETE, {})

    def has_folder(self, name: str) -> bool:
        """Whether a folder is complete."""
        with self._errors():
            return bool(self.fs.exists(self.path(name + _COMPLETE)))

    def get(self, name: str, target: Path) -> None:
        """Download a file or a folder. Raises OutsideError if it does not exist."""
        path = self.path(name)
        with self._errors():
            paths = [path] if self.fs.isfile(path) else self.fs.find(path)  # none if nothing is there
            if not paths:
                raise OutsideError(f"{self.address}/{name} is missing", "run the step again, which uploads it again")
            for file in paths:
                local = target / file.removeprefix(path).lstrip("/") if file != path else target
                local.parent.mkdir(parents=True, exist_ok=True)
                self.fs.get_file(file, str(local))

    def write_json(self, name: str, value: Any) -> None:
        with self._errors():
            self.fs.pipe_file(self.path(name), json.dumps(value, ensure_ascii=False).encode())

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON file; None if it is missing or incomplete."""
        with self._errors(), contextlib.suppress(FileNotFoundError, ValueError):
            return json.loads(self.fs.cat_file(self.path(name)))
        return None

    def delete(self, name: str = "") -> None:
        """Delete a file or a folder; without a name, everything."""
        path = self.path(name) if name else self.root
        with self._errors():
            if self.fs.exists(path):
                self.fs.rm(path, recursive=True)
