"""What a file is, from its first bytes; its name decides only where the bytes leave it open."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

import msgspec

from finetune_pipeline.data.fields import is_row_key
from finetune_pipeline.data.readers.csv_dialect import Dialect, prove
from finetune_pipeline.data.readers.encodings import head_as_utf8, is_utf8
from finetune_pipeline.spec import TaskSpec

BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_PARQUET = b"PAR1"
_LINES = 50
_BLANK = b" \t\r\n"
_LINES_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines")
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")


@dataclass(frozen=True)
class Container:
    """kind: json_lines, json, csv, parquet or unknown; why: for people; bom: a byte order mark comes first."""

    kind: str
    why: str
    bom: bool = False
    dialect: Dialect | None = None


def suffix_of(file: str) -> str:
    """The suffix that says what is in a file, in lower case: ``.csv`` of ``a.CSV.gz``."""
    path = PurePath(file.lower())
    return PurePath(path.stem).suffix if path.suffix in (".gz", ".gzip") else path.suffix


def container_of(head: bytes, whole: bool, file: str, spec: TaskSpec) -> Container:
    """The container of a file from its first bytes (a MiB or so; `whole`: that is all of it)."""
    suffix = suffix_of(file)
    if head.startswith(_PARQUET):
        return Container("parquet", "the file begins with Parquet's mark")
    bom = head.startswith(BOM)
    body = head[len(BOM) :] if bom else head
    if head.startswith(_UTF16) and suffix not in _TABLE_SUFFIXES:
        return Container("unknown", "the file begins with the mark of UTF-16; save it as UTF-8")
    if head.startswith(_UTF16) and is_utf8(spec.data.csv.encoding):
        return Container("csv", "the file begins with the mark of UTF-16; declare data.csv.encoding: utf-16")
    if not body.strip(_BLANK):
        return Container("json_lines", "the file holds no rows" if whole else "blank lines come first", bom)
    declared = spec.data.csv.delimiter is not None or spec.data.csv.quote is not None
    table = suffix in _TABLE_SUFFIXES or (declared and suffix not in (*_LINES_SUFFIXES, ".json"))
    if not table:
        if body.lstrip(_BLANK)[:1] in (b"[", b"{"):
            kind, why = _json_kind(body, whole, spec)
            return Container(kind, why + (", whatever the suffix says" if _says_else(kind, suffix) else ""), bom)
        lines = [line for line in body.split(b"\n")[:_LINES] if line.strip(_BLANK)]
        objects = sum(line.lstrip(_BLANK).startswith(b"{") for line in lines)
        if objects or suffix in (*_LINES_SUFFIXES, ".json"):
            why = f"of the first {len(lines)} lines {objects} begin with {{" if objects else "the suffix says so"
            return Container("json_lines", f"JSON Lines: {why}", bom)
    text, wrong = head_as_utf8(body, spec.data.csv.encoding)
    dialect = Dialect(problem=wrong) if wrong else prove(text, whole, file, spec)
    if dialect.problem:
        return Container("csv" if table else "unknown", dialect.problem, bom, dialect)
    return Container("csv", dialect.why, bom, dialect)


def _says_else(kind: str, suffix: str) -> bool:
    return (kind == "json_lines") == (suffix == ".json") if suffix in (*_LINES_SUFFIXES, ".json") else True


def _json_kind(body: bytes, whole: bool, spec: TaskSpec) -> tuple[str, str]:
    """JSON Lines or a document, of a text that begins with a bracket."""
    ended = body.split(b"\n") if whole else body.split(b"\n")[:-1]
    lines = [line for line in ended[: 4 * _LINES] if line.strip(_BLANK)][:_LINES]
    complete = sum(_is_value(line) for line in lines)
    if not lines:  # no line ends in what was looked at
        return _one_line(body.lstrip(_BLANK), spec)
    first = lines[0].strip(_BLANK)
    if len(lines) == 1:
        return _one_line(first, spec)
    if 2 * complete >= len(lines) and _is_value(first):
        return "json_lines", f"JSON Lines: {complete} of the first {len(lines)} lines are JSON values"
    if 2 * complete > len(lines) and first != b"[":
        return "json_lines", f"JSON Lines: {complete} of the first {len(lines)} lines are JSON values"
    second = lines[1].strip(_BLANK)
    ends, begins = first[-1:], second[:1]
    goes_on = ends in (b"[", b"{", b",", b":") or begins in (b",", b"]", b"}", b":")
    in_object = first[:1] == b"{" and ends in (b"{", b",") and begins == b"{"
    if (goes_on and not in_object) or first[:1] == b"[":
        return "json", f"JSON {_shape(first)} over several lines"
    return "json_lines", f"JSON Lines: {complete} of the first {len(lines)} lines are JSON values"


def _shape(first: bytes) -> str:
    return "array" if first[:1] == b"[" else "object"


_FIRST_KEY = re.compile(rb'\{\s*"((?:[^"\\]|\\.)*)"\s*:\s*(\[?)')


def _one_line(line: bytes, spec: TaskSpec) -> tuple[str, str]:
    """All there is, in one line: a list, an object of lists of rows, or one row."""
    if line[:1] == b"[":
        return "json", "JSON array in one line"
    key = _FIRST_KEY.match(line)
    if spec.data.fields.rows or (key and key[2] and not is_row_key(key[1].decode("utf-8", "replace"), spec)):
        return "json", "JSON object in one line"
    return "json_lines", "JSON Lines: one line"


def _is_value(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return line.lstrip(_BLANK)[:1] in (b"[", b"{")
