"""Finds log files in the task's ``logs/``, another folder, or behind an fsspec URL; plain or gzipped."""

import contextlib
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypedDict

import fsspec
import msgspec
from fsspec.core import url_to_fs

from finetune_pipeline.data.json_lines import MAX_LINE_BYTES, is_blank
from finetune_pipeline.data.readers.records import BOM
from finetune_pipeline.faults import files_below
from finetune_pipeline.spec.model import Task

OWN_FOLDER = "logs"
"""Folder of a task that is always read: `finetune serve` and `finetune review` write there."""
SERVED, SERVED_LOCK = "served.jsonl", ".served.lock"
"""The file that `finetune serve` writes, and the lock it takes for each row."""

_GZIP = b"\x1f\x8b"
_OTHER_PACKERS = {b"\x28\xb5\x2f\xfd": "zstd", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}


class OtherPacker(ValueError):
    """Raised for a file that a program other than gzip has packed."""


BROKEN_OFF = (EOFError, gzip.BadGzipFile, zlib.error, OtherPacker)
"""Errors from reading a packed file that is damaged, still being written, or not packed by gzip."""
_NAMED = re.compile(r"\.(jsonl|jsonlines|ndjson)\b")
_ROTATED = re.compile(rf"({_NAMED.pattern})(?:[-.][0-9][0-9T:.\-]*)?(?:\.gz)?$")
TAIL = 1024
_HOLE = re.compile(rb"\0{4,}")
"""Zero bytes that a power failure left before the next line. UTF-16 and UTF-32 have fewer of them between characters."""


@dataclass(frozen=True)
class LogFile:
    """A file as listed. shown: folder and name, without rotation suffixes; modified: seconds since 1970, None if the file
    system does not report it; mark: changes when the file does."""

    fs: fsspec.AbstractFileSystem
    path: str
    shown: str
    modified: float | None
    mark: str

    @property
    def key(self) -> str:
        """The path for the ledger. Bytes of a name that are not UTF-8 are escaped."""
        return _as_text(self.path, "backslashreplace")

    @property
    def local(self) -> Path | None:
        """The local path, or None if it is not on this machine."""
        protocol = self.fs.protocol
        return Path(self.path) if "file" in ((protocol,) if isinstance(protocol, str) else protocol) else None


def is_log_name(name: str) -> bool:
    """Whether a file of this name in a log folder is read."""
    return _NAMED.search(name) is not None and not name.endswith((".tmp", ".part"))


def log_files(task: Task) -> list[LogFile]:
    """List the log files of the task's log folders and their subfolders, links followed, by name. Hidden and partial files (.tmp,
    .part) and other suffixes are left out."""
    own, configured = task.folder / OWN_FOLDER, task.spec.logs.path
    places = {str(own): OWN_FOLDER, configured if "://" in configured else str(task.folder / configured): configured}
    files = []
    for place, shown in places.items():
        # fsspec would read :: in a path as a chain of file systems
        fs, root = url_to_fs(place) if "://" in place else (fsspec.filesystem("file"), place)
        fs.invalidate_cache()
        if not fs.isdir(root):
            continue
        for path in sorted(fs.find(root) if "://" in place else files_below(root, follow_links=True)):
            relative = path[len(root) :].lstrip("/")
            name = PurePosixPath(path).name
            if not is_log_name(name) or "/." in f"/{relative}":
                continue
            with contextlib.suppress(FileNotFoundError):  # rotated since: the next call finds it under its new name
                info = fs.info(path)
                if info["type"] == "file":
                    mark = hashlib.sha256(repr(sorted(info.items(), key=str)).encode()).hexdigest()[:16]
                    shown_name = f"{shown.rstrip('/')}/" + _ROTATED.sub(r"\1", _as_text(relative, "replace"))
                    files.append(LogFile(fs, path, shown_name, _modified(info), mark))
    return files


def _as_text(path: str, errors: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", errors)


def _modified(info: dict[str, object]) -> float | None:
    modified = next((info[k] for k in ("mtime", "LastModified", "updated", "last_modified") if info.get(k)), None)
    if isinstance(modified, datetime):
        return modified.timestamp()
    return float(modified) if isinstance(modified, int | float) else None


@contextlib.contextmanager
def opened(file: LogFile) -> Iterator[IO[bytes]]:
    """Open a file's bytes, decompressed if gzipped. Raises FileNotFoundError if it was rotated away, and OtherPacker."""
    with file.fs.open(file.path, "rb") as raw:
        head = raw.read(6)
        if packer := next((name for magic, name in _OTHER_PACKERS.items() if head.startswith(magic)), None):
            raise OtherPacker(f"it is packed by {packer}, and only gzip is unpacked")
        raw.seek(0)
        handle: Any = gzip.GzipFile(fileobj=raw) if head.startswith(_GZIP) else raw
        yield handle


def read_line(handle: IO[bytes]) -> tuple[bytes, int, bytes, bool] | None:
    """Read the next line: (line without its end, bytes read, the last of these bytes, truncated); None if no complete line
    follows. A complete JSON object or list is also a line at the end of a file without a line end. Lines longer than 8 MiB
    are truncated. A byte order mark is skipped, and zero bytes too: a writer that keeps its offset in a truncated file
    leaves a hole of them."""
    line, tail, bytes_read = b"", b"", 0
    while chunk := handle.readline(MAX_LINE_BYTES + 1):
        bytes_read += len(chunk)
        tail = (tail + chunk)[-TAIL:] if len(chunk) < TAIL else chunk[-TAIL:]
        ended = chunk.endswith(b"\n")
        if not line:
            chunk = chunk.lstrip(b"\0").removeprefix(BOM)
        line += chunk[: MAX_LINE_BYTES + 1 - len(line)]
        if ended:
            truncated = len(line) > MAX_LINE_BYTES
            return (line[:MAX_LINE_BYTES] if truncated else line.rstrip(b"\r\n")), bytes_read, tail, truncated
    return (line.rstrip(b"\r\n"), bytes_read, tail, False) if _is_whole(line) else None


def rows_in(line: bytes) -> list[bytes]:
    """Return the rows of a line: one, or those before and after a hole of zero bytes."""
    return [row for row in _HOLE.split(line) if not is_blank(row)]


def _is_whole(data: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(data), dict | list)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def first_line(handle: IO[bytes]) -> str | None:
    """Return the name that identifies a file even if it grows or is renamed, copied or gzipped: 24 hex digits of the hash of
    its first complete line; None before there is one."""
    handle.seek(0)
    read = read_line(handle)
    return None if read is None else hash_line(read[0])


def hash_line(line: bytes) -> str:
    """Return the name of a file with this first line."""
    return hashlib.sha256(line).hexdigest()[:24]


class Stream(TypedDict):
    """The part of a file that was read. tails: hashes of its last bytes at some offsets."""

    offset: int
    lines: int
    tails: list[tuple[int, str]]


NOTHING_READ: Stream = {"offset": 0, "lines": 0, "tails": []}


class LineReader:
    """Iterates over the complete lines of a file from the offset in its ledger entry. is_incomplete: the file ends in the
    middle of a line. Raises LookupError if the file is shorter than the offset."""

    def __init__(self, handle: IO[bytes], stream: Stream = NOTHING_READ) -> None:
        self._handle, self.offset, self.lines = handle, stream["offset"], stream["lines"]
        self._tails = [tail for tail in stream["tails"] if tail[0] != self.offset or _is_power_of_two(self.lines)]
        self._tail = bytes_before(handle, self.offset)
        self.is_incomplete = False

    def __iter__(self) -> Iterator[tuple[bytes, bool]]:
        """Yield (line without its end, truncated); `offset` and `lines` are those after the line."""
        while (read := read_line(self._handle)) is not None:
            line, bytes_read, tail, truncated = read
            self.offset += bytes_read
            # otherwise these bytes are the line end of a line that was read without it
            self.lines += self._tail[-1:] in (b"", b"\n")
            self._tail = (self._tail + tail)[-TAIL:]
            if _is_power_of_two(self.lines):
                self._tails.append((self.offset, hash_tail(self._tail)))
            yield line, truncated
        self.is_incomplete = self._handle.tell() != self.offset

    def entry(self) -> Stream:
        """Return the file's ledger entry: offset, lines, and the hash of the tail here and at every line whose number is a power
        of two, to distinguish a part of this file from another file."""
        tails = [tail for tail in self._tails if tail[0] != self.offset]
        return {"offset": self.offset, "lines": self.lines, "tails": [*tails, (self.offset, hash_tail(self._tail))]}


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def count_line_ends(handle: IO[bytes], offset: int) -> tuple[int, int]:
    """Count the line ends of a file before an offset and after it."""
    handle.seek(0)
    before = after = position = 0
    while chunk := handle.read(1 << 20):
        cut = max(0, offset - position)
        before, after = before + chunk[:cut].count(b"\n"), after + chunk[cut:].count(b"\n")
        position += len(chunk)
    return before, after


def bytes_before(handle: IO[bytes], offset: int) -> bytes:
    """Return the last 1024 bytes before an offset, leaving the handle there. Raises LookupError if the file is shorter."""
    start = max(0, offset - TAIL)
    handle.seek(start)
    data = handle.read(offset - start)
    if len(data) < offset - start:
        raise LookupError(f"the file ends before byte {offset}")
    return data


def hash_tail(data: bytes) -> str:
    """Hash a tail for the ledger."""
    return hashlib.sha256(data).hexdigest()[:16]
