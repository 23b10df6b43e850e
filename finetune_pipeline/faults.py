"""Faults outside the program, in jobs or in the environment, with a readable message for each."""

import contextlib
import errno
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from finetune_pipeline.escaping import printable
from finetune_pipeline.findings import FindingsError


class _Fault(Exception):
    """An error for people: `problem` says what is wrong and where, `fix` what to do."""

    def __init__(self, problem: str, fix: str = "") -> None:
        self.problem, self.fix = problem, fix = printable(problem), printable(fix)
        super().__init__(f"{problem}\nfix: {fix}" if fix else problem)


class JobError(_Fault, ValueError):
    """Raised if a job cannot be done as specified."""


class Diverged(JobError):
    """Raised if the loss is no longer a finite number."""

    def __init__(self, step: int, example_ids: list[str]) -> None:
        self.example_ids = example_ids
        super().__init__(
            f"the loss was not finite at step {step}, on a batch with the examples {', '.join(example_ids)}.",
            "lower training.learning_rate or raise training.warmup_share; if it happens at the first step, look at "
            "these examples and at the base model",
        )


class OutsideError(_Fault, RuntimeError):
    """Raised if something outside the program cannot be used."""


_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")
"""What the out-of-memory errors of torch and the system say, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of a GPU or of the machine, did not suffice."""
    is_torchs = any(
        kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__
    )  # torch may not be imported here
    return is_torchs or isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


_SPACE = "make space, or set FINETUNE_HOME, FINETUNE_DATA or TMPDIR, whichever is on this disk, to a larger one, and run it again; "
_SPACE += "finished steps are kept"
_FULL = ("the disk is full: {place} could not be written", _SPACE)
_RIGHTS = "correct its owner or permissions, and run it again"
_SYSTEM = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: ("the disk is full: {place} could not be written, the quota is used up", _SPACE),
    errno.EFBIG: ("{place} could not be written: it reached the limit of a file's size", "raise it (ulimit -f)"),
    errno.EROFS: (
        "{place} is on a disk that cannot be written",
        "set FINETUNE_HOME and FINETUNE_DATA to folders that can be written",
    ),
    errno.EACCES: ("{place} may not be read or written by this user", _RIGHTS),
    errno.EPERM: ("{place} may not be changed by this user", _RIGHTS),
    errno.ELOOP: ("{place} cannot be opened: its symbolic links lead in a circle", "remove or correct the link"),
    errno.EIO: ("{place} cannot be read or written: the disk reports an error", "check the disk (dmesg)"),
    errno.ESTALE: ("{place} has vanished from a network disk", "mount the disk again, and run it again"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "close other programs"),
    errno.ENAMETOOLONG: ("the name of {place} is too long for this disk", "shorten it"),
    errno.EISDIR: ("{place} is a folder where a file is needed", "move the folder away"),
    errno.ENOTDIR: ("{place} leads through a file where a folder is needed", "move the file away"),
}
CLIENT_FIX = (
    "correct the address, or the proxy (HTTPS_PROXY, ALL_PROXY; socks5:// needs `pip install socksio`) or the certificates "
    "(SSL_CERT_FILE) that the environment names"
)
"""What to do if no HTTP client can be made: clients read proxies and certificates from the environment."""
READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of writing to a place that is read-only."""
_NO_PLACE = ("the folder {place} does not exist and cannot be created", "set FINETUNE_HOME to a folder on a disk")
_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCKED = ("the database in {place} is locked by another process", "wait until it ends, and run this again")
_DISK = ("the database in {place} cannot be read or written: the disk reports an error", "check the disk")
_DAMAGED = ("the database {place} is damaged", "put back a copy, or move it away")
_LITTLE = 1 << 20
"""Free bytes below which no database works."""
SQLITE = {
    "database or disk is full": _FULL,
    "database is locked": _LOCKED,
    "database table is locked": _LOCKED,
    "readonly database": ("the database in {place} may not be written by this user", _RIGHTS),
    "disk I/O error": _DISK,
    "disk image is malformed": _DAMAGED,
    "file is not a database": _DAMAGED,
    "no such table": ("the database in {place} was deleted while it was in use", "run it again"),
    "unable to open database": (
        "the database in {place} cannot be opened",
        "check that its folder exists, can be written and has free space",
    ),
}
"""SQLite's messages for outside faults, with the problem and the fix to report."""


def outside_words(error: BaseException, place: object) -> str | None:
    """Return what is wrong outside the program, and what to do; None for a bug, which should show its traceback.

    Args:
        error: The error; its causes are examined too.
        place: The pipeline's home folder, named if the error has no file name.
    """
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("finetune_pipeline"):
        return f"the Python package {error.name} is not installed\nfix: install it beside finetune_pipeline"
    for link in _chain(error):
        if isinstance(link, OutsideError):
            return str(link)
        if isinstance(link, FindingsError | JobError):
            return None  # it already explains the fault that caused it
        if isinstance(link, OSError):
            needs_place = link.errno in (*_WRITING, errno.EMFILE, errno.ENFILE)
            file = link.filename2 or link.filename  # when copying, the second file is the written one
            if link.errno == errno.ENOENT and str(file) == str(place):
                return _sentence(_NO_PLACE, place)
            if link.errno in _SYSTEM and (file or needs_place):
                return _sentence(_SYSTEM[link.errno], file or place)
        if type(link).__name__.startswith("UnsupportedModel"):  # MLflow: there is no store for this address
            return f"{link}\nfix: correct MLFLOW_TRACKING_URI, or unset it to use the local database"
        if "iostream error" in str(link) or "PytorchStreamWriter" in str(link):  # torch.save gives no reason
            return _sentence(_FULL, place)
        for number in _WRITING:  # reported so by libraries that are not written in Python
            if os.strerror(number) in str(link):
                return _sentence(_SYSTEM[number], place)
        is_database_error = "OperationalError" in type(link).__name__ or "DatabaseError" in type(link).__name__
        if is_database_error and (sentence := sqlite_words(str(link), place)):  # of sqlite3, or SQLAlchemy
            return sentence
    return None


def sqlite_words(message: str, place: object) -> str | None:
    """Return what is wrong with a database below a folder, and what to do, from SQLite's message; None if that is unknown."""
    words = next((words for sign, words in SQLITE.items() if sign in message), None)
    if words is None:
        return None
    if words is _DISK:  # SQLite also reports a full disk like this
        with contextlib.suppress(OSError):
            words = words if shutil.disk_usage(str(place)).free >= _LITTLE else _FULL
    if words is _DAMAGED:  # SQLite's errors do not name the file
        damaged = (str(path) for path in sorted(Path(str(place)).rglob("*.db")) if not _is_whole(path))
        place = ", ".join(damaged) or f"in {place}"
    return _sentence(words, place)


def files_below(folder: str | os.PathLike[str], follow_links: bool = False) -> list[str]:
    """Return the files below a folder, except in hidden folders; of links to the same folder, one is followed.

    Raises PermissionError if a folder cannot be read: globs would treat it as empty. A disk's lost+found may be unreadable.
    """
    files: list[str] = []
    seen_folders: set[str] = set()

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError) and Path(error.filename).name != "lost+found":
            raise error

    for place, subfolders, names in os.walk(folder, onerror=refuse, followlinks=follow_links):
        real_place = os.path.realpath(place)
        if real_place in seen_folders:
            subfolders.clear()
            continue
        seen_folders.add(real_place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        files += (os.path.join(place, name) for name in names)
    return files


def visible_files(folder: Path) -> list[tuple[str, Path]]:
    """Return (name relative to the folder, path) of the files below a folder that are not hidden, sorted."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in map(Path, files_below(folder)))
    return [(name, path) for name, path in files if path.is_file() and not path.name.startswith(".")]


def _is_whole(path: Path) -> bool:
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            return bool(database.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
    except sqlite3.OperationalError:  # locked or not openable: unknown
        return True
    except sqlite3.DatabaseError:
        return False


def _sentence(words: tuple[str, str], place: object) -> str:
    return f"{words[0].format(place=place)}\nfix: {words[1]}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    seen_ids: set[int] = set()
    while error is not None and id(error) not in seen_ids:
        seen_ids.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
