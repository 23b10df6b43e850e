"""Reads and writes JSON Lines: decodes untrusted lines and names every fault; reads the pipeline's own rows strictly."""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from finetune_pipeline.data.quoting import row_finding
from finetune_pipeline.data.readers import records
from finetune_pipeline.engine.files import DamagedFile, check_form, digest_file, hold_folder
from finetune_pipeline.escaping import printable_value
from finetune_pipeline.findings import Finding

JsonObject = dict[str, Any]
"""An object of somebody else's JSON, such as a raw row: its keys are read one by one, and checked where they are."""
Form = TypeVar("Form")
MAX_LINE_BYTES = 8 * 1024 * 1024


def is_blank(line: bytes) -> bool:
    return not line.strip(records.BLANKS)


def read_lines(path: Path, limit: int = MAX_LINE_BYTES) -> Iterator[tuple[int, bytes, bool]]:
    """Yield (line number from 1, bytes without the line end, cut) of every non-blank line, in constant memory. A line
    longer than `limit` bytes is cut to them, with ``cut=True``."""
    with path.open("rb") as handle:
        for line in records.read_lines(handle, limit):
            yield line.number, line.data[:limit].rstrip(b"\r\n"), line.cut


def read_blocks_of_lines(path: Path) -> Iterator[bytes]:
    """Read a file in blocks of complete lines of about 8 MiB."""
    with path.open("rb") as handle:
        while block := handle.read(8 << 20):
            yield block + handle.readline()


def write_rows(path: Path, rows: Iterable[Mapping[str, object] | msgspec.Struct]) -> int:
    """Write one JSON object per line (UTF-8, keys in the order given). Returns the number of rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as out:
        for row in rows:
            out.write(encode_line(row))
            count += 1
    return count


def encode_line(row: Mapping[str, object] | msgspec.Struct) -> bytes:
    """Encode one object as a line of JSON. Texts that UTF-8 cannot hold (lone surrogates) are escaped."""
    try:
        return msgspec.json.encode(row) + b"\n"
    except UnicodeEncodeError:
        return msgspec.json.encode(printable_value(msgspec.to_builtins(row))) + b"\n"


def append_line(path: Path, row: Mapping[str, object], mode: int = 0o666, *, sync: bool) -> None:
    """Append one JSON line. mode: permissions of a new file. sync: wait until the line is on disk, not just in the kernel.

    If a dead process, a full disk or an editor left the last line without its end, the function ends that line first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    with open(path, "a+b", opener=lambda name, flags: os.open(name, flags, mode)) as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            line = line if out.read(1) == b"\n" else b"\n" + line
        out.write(line)
        out.flush()
        if sync:
            os.fsync(out.fileno())


def append_decision(path: Path, row: Mapping[str, object]) -> None:
    """Append what a person decided; it is on disk when this returns. Waits while another process rewrites files of the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_folder(path.parent):
        append_line(path, row, sync=True)


@overload
def read_rows(path: Path) -> list[dict[str, Any]]: ...
@overload
def read_rows(path: Path, form: type[Form]) -> list[Form]: ...
def read_rows(path: Path, form: Any = None) -> list[Any]:
    """Read the rows of a file that this pipeline wrote. form: the TypedDict that each must fit. Raises DamagedFile naming file and
    line of anything that is not a JSON object, or has another form."""
    rows = []
    for number, line, cut in read_lines(path, limit=1 << 30):
        try:
            row = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DamagedFile(f"{path}:{number}: {error}\nfix: restore the file from a copy") from error
        if cut or not isinstance(row, dict):
            raise DamagedFile(f"{path}:{number}: the line is not one JSON object\nfix: restore the file from a copy")
        if form is not None:
            check_form(row, form, f"{path}:{number}")
        rows.append(row)
    return rows


def digest_files(files: Iterable[tuple[str, Path]]) -> str:
    """Return the hex SHA-256 over (name, content) pairs in the given order. Different pairs never give the same input."""
    return combine_digests((name, digest_file(path)) for name, path in files)


def combine_digests(digests: Iterable[tuple[str, str]]) -> str:
    """Return the hex SHA-256 over (name, hex SHA-256 of the content) pairs in the given order."""
    combined = hashlib.sha256()
    for name, digest in digests:
        encoded = name.encode("utf-8", "surrogateescape")
        combined.update(f"{len(encoded)}:".encode() + encoded + digest.encode())
    return combined.hexdigest()


_KEY = re.compile(rb'"\s*:')
_ESCAPED = re.compile(rb"\\u00(?:22|3[aA])")
"""An escaped quote or colon, which may hide what looks like the end of a key."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def decode_line(data: bytes, place: str, at: int | None = None) -> tuple[Any, list[Finding], bool]:
    """Decode one line, or any other bytes that should be one JSON value. If the strict decoder refuses it, a lenient one
    reads it again to name the reason and to find the row's other problems.

    at: byte offset of the line in its file. Returns (value, findings, readable); the value means nothing unless readable.
    """
    findings: list[Finding] = []
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        text = data.decode("utf-8", "replace")
        findings.append(broken_utf8(data, error.start, place, at))
    strict_error = ""
    if not findings:
        try:
            value = msgspec.json.decode(data)
            keys = len(_KEY.findall(data))  # more than once it is encoded again: one may be repeated
            if keys == msgspec.json.encode(value).count(b'":') and not _ESCAPED.search(data):
                return value, [], True
        except (msgspec.DecodeError, RecursionError) as error:
            strict_error = str(error)
    value, problems, readable = _decode_leniently(text, place)
    if readable and strict_error and not problems:
        fix = "write the row with a JSON library"
        problems = [row_finding("bad_json", place, f"not valid JSON: {strict_error}", fix)]
        readable = False
    return value, findings + problems, readable


def broken_utf8(data: bytes, start: int, place: str, at: int | None = None) -> Finding:
    """Describe the invalid byte at `start` of `data`, which begins at byte `at` of its file (from 0)."""
    where = f"byte offset {start} of the line" + ("" if at is None else f" (byte offset {at + start} of the file)")
    message, fix = f"the byte 0x{data[start]:02x} at {where} is not UTF-8", "save the file as UTF-8"
    return row_finding("invalid_utf8", place, message, fix)


def _decode_leniently(text: str, place: str) -> tuple[Any, list[Finding], bool]:
    """Decode JSON with the standard library, and list numbers, keys and texts that JSON forbids. Returns as `decode_line`."""
    not_finite: list[str] = []
    repeated_keys: list[str] = []

    def merge_pairs(items: list[tuple[str, Any]]) -> dict[str, object]:
        merged: dict[str, object] = {}
        for key, value in items:
            if key in merged:
                repeated_keys.append(key)
            merged[key] = value
        return merged

    def note_not_finite(name: str) -> float:
        not_finite.append(name)
        return 0.0

    def read_decimal(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else note_not_finite(digits)

    def read_integer(digits: str) -> float:
        return int(digits) if len(digits) < 300 else note_not_finite(digits)

    try:
        value = json.loads(
            text,
            object_pairs_hook=merge_pairs,
            parse_constant=note_not_finite,
            parse_float=read_decimal,
            parse_int=read_integer,
        )
    except json.JSONDecodeError as error:
        return None, [_explain_syntax_error(text, error, place)], False
    except RecursionError:
        message, fix = "the JSON is nested too deeply", "write one flat object per line"
        return None, [row_finding("bad_json", place, message, fix)], False
    findings = []
    if not_finite:
        listed = ", ".join(n if len(n) < 20 else n[:17] + "…" for n in sorted(set(not_finite))[:5])
        fix = "JSON has no such number; write null, or leave the field out"
        findings.append(row_finding("non_finite_number", place, f"not a finite number: {listed}", fix))
    if repeated_keys:
        message = f"appears twice in one object: {', '.join(repr(k) for k in sorted(set(repeated_keys))[:5])}"
        fix = "keep one of the two values; JSON readers silently drop the other"
        findings.append(row_finding("duplicate_key", place, message, fix))
    if paths := _paths_with_surrogates(value):
        message = f"half of a surrogate pair (such as \\ud800) in {', '.join(paths[:5])}: this is not text"
        fix = "the text was cut inside a character (often an emoji); take it from the source again"
        findings.append(row_finding("lone_surrogate", place, message, fix))
    return value, findings, True


def json_rows(path: Path) -> Iterator[tuple[int, Any, str]]:
    """Yield (line number, value, problem or "") of each non-blank line."""
    for number, line, cut in read_lines(path):
        if not is_blank(line):
            value, problems, _ = decode_line(b"" if cut else line, "line")
            yield number, value, "; ".join(f"it is not JSON: {problem.message}" for problem in problems)


def is_cut_off(data: bytes) -> bool:
    """Whether a line is a truncated JSON value."""
    try:
        json.loads(data)
    except json.JSONDecodeError as error:
        return data[:1] in (b"{", b"[") and ends_early(error)
    except (UnicodeDecodeError, RecursionError, ValueError):
        pass
    return False


def ends_early(error: json.JSONDecodeError) -> bool:
    """Whether a JSON text ends too early."""
    return not error.doc[error.pos :].strip() or error.msg.startswith("Unterminated string")


def _explain_syntax_error(text: str, error: json.JSONDecodeError, place: str) -> Finding:
    column = error.pos + 1
    tail = text[error.pos :]
    if ends_early(error):
        message = f"not valid JSON at column {column}: {error.msg}; the line looks truncated"
        return row_finding("bad_json", place, message, "export the whole row again")
    fix = "write the row with a JSON library, one object per line"
    if error.msg == "Extra data":
        fix = "write one JSON object per line: move the rest to its own line"
    elif tail.startswith("'") or "property name" in error.msg:
        fix = "keys and strings need double quotes, and no comma may follow the last pair; use a JSON library"
    elif tail.startswith(("//", "/*", "#")):
        fix = "JSON has no comments: remove them"
    elif "control character" in error.msg:
        fix = "write line breaks and tabs inside a text as \\n and \\t"
    return row_finding("bad_json", place, f"not valid JSON at column {column}: {error.msg} (found {tail[:12]!r})", fix)


def _paths_with_surrogates(value: Any) -> list[str]:
    """Return the paths of the strings with an unpaired surrogate."""
    paths: list[str] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack:
        path, item = stack.pop()
        if isinstance(item, dict):
            for key, inner in item.items():
                key_name = ascii(key)[1:-1]
                if _SURROGATE.search(key):
                    paths.append(f"the key {key_name}")
                stack.append((f"{path}.{key_name}" if path else key_name, inner))
        elif isinstance(item, list):
            stack.extend((f"{path}[{i}]", inner) for i, inner in enumerate(item))
        elif isinstance(item, str) and _SURROGATE.search(item):
            paths.append(path or "the row")
    return sorted(paths)
