"""Raw rows and files, and the whole way from a file to validated rows."""

import csv
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import openpyxl

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.fields import mapping_of
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.readers.records import Record
from finetune_pipeline.data.validate import validation
from finetune_pipeline.data.validate.validation import ValidatedBlock, ValidatedRow, validate_record
from finetune_pipeline.spec import TaskSpec
from finetune_pipeline_tests.unit.data.rows import PROMPT, make_spec

FILE = "raw/a.jsonl"
SPEC = make_spec(max_chars=400)


def turn(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


S, U, A = turn("system", PROMPT), turn("user", "It broke again"), turn("assistant", "bug_report")
"""The turns of a sound chat."""


class Validated(ValidatedBlock):
    """All blocks of a file together."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The kept rows, by another reader than the code under test."""
        return [json.loads(line) for line in self.examples.decode().split("\n") if line]

    @property
    def texts(self) -> list[str]:
        """What the user says in each kept row."""
        return ["\n".join(m["content"] for m in e["messages"] if m["role"] == "user") for e in self.rows]

    @property
    def by_line(self) -> list[tuple[str, int]]:
        """(rule, line) of every finding, sorted; line 0 where it is about the file as a whole."""
        places = [f["place"] if ":" in f["place"] else ":0" for f in self.findings]
        rules = [f["rule"].removeprefix("data.") for f in self.findings]
        return sorted((rule, int(place.rpartition(":")[2])) for rule, place in zip(rules, places, strict=True))

    @property
    def rules(self) -> Counter[str]:
        return Counter({rule.removeprefix("data."): n for rule, n in self.by_rule.items()})


def validate_file(path: Path, spec: TaskSpec, size: int = 8 << 20) -> Validated:
    """The result for a file, read in blocks of so many bytes."""
    whole = Validated()
    for block in validation.in_blocks(read_records(path, path.name, spec), path.name, size):
        result = validation.validate_block(block, spec)
        assert result.rows_in == result.kept + len(result.quarantine)
        whole = Validated(**{name: value + getattr(result, name) for name, value in vars(whole).items()})
    return whole


def validate_row(row: Any, spec: TaskSpec = SPEC, file: str = FILE) -> ValidatedRow:
    """The result for one row, or for a line's bytes, at line 7 of the file."""
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    return validate_record(Record(7, None, data, encoded=True), file, spec, mapping_of(spec))[0]


def row_rules(row: Any, spec: TaskSpec = SPEC) -> list[str]:
    """The rules of the row's findings, sorted."""
    return sorted(f.rule.removeprefix("data.") for f in validate_row(row, spec).findings)


def kept_example(row: Any, spec: TaskSpec = SPEC) -> Example:
    """The example that the row becomes."""
    validated = validate_row(row, spec)
    assert validated.example is not None, validated.findings
    return validated.example


def table(rows: list[Any], delimiter: str = ",", end: str = "\n", **dialect: Any) -> str:
    """The rows as a CSV file."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, **dialect).writerows(rows)
    return out.getvalue()


def workbook(sheets: dict[str, list[Any]]) -> bytes:
    """An Excel workbook of these sheets."""
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(out)
    return out.getvalue()


def validate_bytes(folder: Path, data: bytes, spec: TaskSpec, name: str = "a.jsonl") -> Validated:
    """The result for a file that holds these bytes."""
    path = folder / name
    path.write_bytes(data)
    return validate_file(path, spec)


def records_of(folder: Path, data: bytes, spec: TaskSpec, name: str = "a.json") -> list[Record]:
    """The records of a file that holds these bytes."""
    path = folder / name
    path.write_bytes(data)
    return list(read_records(path, name, spec))
