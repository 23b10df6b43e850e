"""Reads and writes files safely: typed JSON, durable writes by one rename, digests, and locks between processes."""

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from finetune_pipeline.escaping import printable
from finetune_pipeline.faults import READ_ONLY, OutsideError


def digest_json(value: Any) -> str:
    """Return the hex SHA-256 of a value's canonical JSON (sorted keys, no whitespace)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


class SeenFiles:
    """A cache of the digests of large files, keyed by their path and file status.

    A file of a MiB or more is not read again while its path, size, inode, mtime and ctime are unchanged. Any change of the
    bytes changes the ctime, which programs cannot set. A digest is cached only if the ctime was at least two seconds old, so
    that a later change within the clock's resolution is noticed (git treats its index in the same way). path: the cache's
    file; None: nothing is cached.
    """

    _LEAST_BYTES = 1 << 20
    _GRAIN = 2_000_000_000  # nanoseconds

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, Any] = {}
        if path is not None and path.is_file():
            with contextlib.suppress(ValueError):
                self._known = read_json(path, dict[str, list[int | str]])

    def digest(self, path: Path) -> str:
        """Return the hex SHA-256 of a file."""
        before = size, _, modified, changed, _ = self._status(path)
        name = str(path.absolute())
        remembered = self._known.get(name)
        if remembered is not None and remembered[:-1] == before:
            return str(remembered[-1])
        now = time.time_ns()
        digest = digest_file(path)
        is_settled = 0 <= changed < now - self._GRAIN and modified < now - self._GRAIN
        if self._path is not None and size >= self._LEAST_BYTES and is_settled and self._status(path) == before:
            self._known[name] = [*before, digest]
            try:
                write_json(self._path, self._known)
            except OSError as error:
                if error.errno not in READ_ONLY:  # a read-only home: the next call reads the file again
                    raise
        return digest

    @staticmethod
    def _status(path: Path) -> list[int]:
        status = path.stat()
        return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_dev]


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write JSON so that readers see the old file or the new one, never a part; durable when it returns.

    durable False: for files of a folder that is not published yet. Syncing each of them would wait for all other recent
    writes, tens of times in a stage, and after a power failure the folder is made again anyway.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, printable(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)) + "\n", durable)


def replace_text(path: Path, text: str, durable: bool = True) -> None:
    """Write a file so that readers see the old text or the new one, never a part."""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    except OSError as error:
        error.filename = str(path.parent)  # not the temporary name, which users do not know
        raise
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            if durable:
                os.fsync(out.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)  # an interrupt may come just after the replacement
        raise


class DamagedFile(OutsideError, ValueError):
    """Raised if a file's content is not what was written."""


def read_json(path: Path, form: Any = Any) -> Any:
    """Return the value in a JSON file (UTF-8). form: the type it must have, as msgspec reads it. Raises DamagedFile."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path} is damaged: it is not JSON ({error})\nfix: put back a copy of it") from error
    check_form(value, form, path)
    return value


def check_form(value: Any, form: Any, place: object) -> None:
    """Raise DamagedFile, which names the place, if a value read from JSON does not have the type `form`."""
    try:
        msgspec.convert(value, form)
    except msgspec.ValidationError as error:
        raise DamagedFile(f"{place} is damaged: {error}\nfix: put back a copy of it") from error


def make_private(folder: Path) -> Path:
    """Create a folder that only its owner can look into, whatever the umask: what is created in it later is private too. An
    existing one is closed to other users, but not to its group, with whom it may be shared on purpose."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    mode = folder.stat().st_mode
    if mode & 0o007 and not mode & stat.S_ISVTX:  # not in /tmp itself
        with contextlib.suppress(OSError):  # another user's folder, or a read-only file system
            folder.chmod(stat.S_IMODE(mode) & ~0o007)
    return folder


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Wait for a lock shared by all processes on this machine, and hold it. The kernel frees it if the holder dies.

    An existing lock file that is read-only can be held too, so that a read-only home can be used.
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
    """Hold the lock like :func:`hold`, but without waiting: yields False if another process holds it."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        yield free


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Wait for a lock on an existing folder, shared by all processes on this machine, and hold it; no file is made."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
