"""Files that outlive kills: JSON of a known form, durable writes by one rename, digests, and locks between processes."""

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.faults import READ_ONLY, OutsideError


def digest_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON (sorted keys, no whitespace)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class SeenFiles:
    """Digests of large files that people keep, remembered by what the file system says of them.

    A file of a MiB or more is not read again while its path, size, inode and times of change are those it had when it
    was digested. What changes a file's bytes changes its ctime, which no program can set; a digest is remembered only
    if the ctime was two seconds old by then, so that a later change within the clock's grain shows (git treats its
    index in the same way). `path`: the file that remembers; None: nothing is remembered.
    """

    _LEAST_BYTES = 1 << 20
    _GRAIN = 2_000_000_000

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.is_file():
            with contextlib.suppress(ValueError):
                self._known = read_json(path, dict[str, list[int | str]])

    def digest(self, path: Path) -> str:
        """Hex SHA-256 of a file."""
        before = self._marks(path)
        name = str(path.absolute())
        known = self._known.get(name)
        if known is not None and known[:-1] == before:
            return str(known[-1])
        now = time.time_ns()
        digest = digest_file(path)
        quiet = 0 <= before[3] < now - self._GRAIN and before[2] < now - self._GRAIN
        if self._path is not None and before[0] >= self._LEAST_BYTES and quiet and self._marks(path) == before:
            self._known[name] = [*before, digest]
            try:
                write_json(self._path, self._known)
            except OSError as error:
                if error.errno not in READ_ONLY:  # else it is read again next time
                    raise
        return digest

    @staticmethod
    def _marks(path: Path) -> list[int]:
        status = path.stat()
        return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_dev]


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write JSON so that readers see the old file or the new one, never a part; durable when it returns.

    durable False: for files of a folder that is yet to be published. Bringing each to the disk by itself would wait for
    whatever else was written lately, tens of times in a stage; should the machine fail, the folder is made anew anyway.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", durable)


def replace_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a file so that readers see the old text or the new one, never a part."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    except OSError as error:
        error.filename = str(path.parent)  # rather than a name that nobody gave
        raise
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class DamagedFile(OutsideError, ValueError):
    """A file is not what was written."""


def read_json(path: Path, form: Any = Any) -> Any:
    """The value in a JSON file (UTF-8). form: the type it must have, as msgspec reads it. Raises DamagedFile."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: it is no JSON ({error})\nfix: put back a copy of it") from error
    check_form(value, form, path)
    return value


def check_form(value: Any, form: Any, place: object) -> None:
    """Raise DamagedFile, naming the place, if a value read from JSON has another type than `form`."""
    try:
        msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"{place} is damaged: {error}\nfix: put back a copy of it") from error


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a lock of all processes on this machine; waits. Freed by the kernel if the holder dies.

    A lock that exists and may only be read is held, too, so that a home that may only be read can be.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
    except OSError as error:
        if error.errno not in READ_ONLY or not os.access(path, os.R_OK):
            raise
        handle = path.open("r")
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def hold_if_free(path: Path) -> Iterator[bool]:
    """As :func:`hold`, but without waiting: yields False if another holds it."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
