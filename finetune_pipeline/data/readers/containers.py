"""What a file is, from its first bytes; its name decides only where the bytes leave it open."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import PurePath

import msgspec

from finetune_pipeline.data.fields import is_row_key
from finetune_pipeline.data.readers.csv_dialect import find_dialect
from finetune_pipeline.data.readers.json_document import FIRST_PAIR
from finetune_pipeline.data.readers.raw_stream import Line, is_utf8
from finetune_pipeline.data.readers.tables import Dialect
from finetune_pipeline.spec import TaskSpec

BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_BLANK = b" \t\r\n"
_LINES = 50
_TABLE_LINES = 1000
_JSON_SUFFIXES = (".jsonl", ".ndjson", ".jsonlines", ".json")
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")


@dataclass(frozen=True)
class Container:
    """What a file is.

    Attributes:
        kind: json_lines, json, csv, parquet or unknown.
        why: The reason, for people.
        dialect: The dialect of a table.
    """

    kind: str
    why: str
    dialect: Dialect | None = None


def container_of(head: bytes, whole: bool, file: str, spec: TaskSpec) -> Container:
    """The container of a file from its first bytes (a MiB or so; `whole`: that is all of it)."""
    path = PurePath(file.lower())
    suffix = PurePath(path.stem).suffix if path.suffix in (".gz", ".gzip") else path.suffix
    if head.startswith(b"PAR1"):
        return Container("parquet", "the file begins with Parquet's mark")
    csv = spec.data.csv
    declared = csv.delimiter is not None or csv.quote is not None
    table = suffix in _TABLE_SUFFIXES or (declared and suffix not in _JSON_SUFFIXES)
    if head.startswith(_UTF16) and is_utf8(csv.encoding):
        if not table:
            return Container("unknown", "the file begins with the mark of UTF-16; save it as UTF-8")
        fix = "save it as UTF-8, or add to task.yaml: `data: {csv: {encoding: utf-16}}`"
        why = "the file begins with the mark of UTF-16"
        return Container("csv", why, Dialect(problem=why, fix=fix))
    body = head.removeprefix(BOM)
    if not body.strip(_BLANK):
        return Container("json_lines", "the file holds no rows" if whole else "blank lines come first")
    if not table:
        lines = [line for line in body.split(b"\n")[: 4 * _LINES] if line.strip(_BLANK)][:_LINES]
        if body.lstrip(_BLANK)[:1] in (b"[", b"{"):
            kind, why = _json_kind(body, whole, spec)
            odd = suffix in _JSON_SUFFIXES and (kind == "json_lines") == (suffix == ".json")
            return Container(kind, why + (", whatever the suffix says" if odd else ""))
        objects = sum(line.lstrip(_BLANK).startswith(b"{") for line in lines)
        if objects or suffix in _JSON_SUFFIXES:
            why = f"of the first {len(lines)} lines {objects} begin with {{" if objects else "the suffix says so"
            return Container("json_lines", f"JSON Lines: {why}")
    dialect = find_dialect(_text_lines(body, whole, csv.encoding), file, spec)
    return Container("csv" if table or not dialect.problem else "unknown", dialect.problem or dialect.why, dialect)


def _text_lines(body: bytes, whole: bool, encoding: str) -> list[Line]:
    """The first lines of a table; the last one only when the file ends with it."""
    try:
        text = io.TextIOWrapper(io.BytesIO(body), encoding, "replace", newline="").readlines()
    except UnicodeError:
        text = []
    lines = [Line(number, 0, line.removeprefix("\ufeff")) for number, line in enumerate(text, 1)]
    return lines[:_TABLE_LINES] if whole or len(lines) < 2 else lines[:-1][:_TABLE_LINES]


def _json_kind(body: bytes, whole: bool, spec: TaskSpec) -> tuple[str, str]:
    """JSON Lines or a document, of a text that begins with a bracket; and the reason."""
    ended = body.split(b"\n") if whole else body.split(b"\n")[:-1]
    lines = [line.strip(_BLANK) for line in ended[: 4 * _LINES] if line.strip(_BLANK)][:_LINES]
    if len(lines) < 2:  # all there is, or all that was looked at, stands in one line
        line = (lines or [body.lstrip(_BLANK)])[0]
        if line[:1] == b"[":
            return "json", "JSON array in one line"
        pair = FIRST_PAIR.match(line.decode("utf-8", "replace"))
        if spec.data.fields.rows or (pair and pair[2] == "[" and not is_row_key(pair[1], spec)):
            return "json", "JSON object in one line"
        return "json_lines", "JSON Lines: one line"
    complete = sum(_is_value(line) for line in lines)
    told = f"JSON Lines: {complete} of the first {len(lines)} lines are JSON values"
    first, second = lines[0], lines[1]
    if 2 * complete >= len(lines) and (_is_value(first) or (2 * complete > len(lines) and first != b"[")):
        return "json_lines", told
    goes_on = first[-1:] in (b"[", b"{", b",", b":") or second[:1] in (b",", b"]", b"}", b":")
    row_after_row = first[:1] == b"{" and first[-1:] in (b"{", b",") and second[:1] == b"{"
    if first[:1] == b"[" or (goes_on and not row_after_row):
        return "json", f"JSON {'array' if first[:1] == b'[' else 'object'} over several lines"
    return "json_lines", told


def _is_value(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=msgspec.Raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return line[:1] in (b"[", b"{")
