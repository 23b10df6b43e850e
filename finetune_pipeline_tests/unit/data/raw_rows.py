"""Raw rows and files, and their validation."""

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
"""The turns of a valid chat."""


class Validated(ValidatedBlock):
    """The validation result of a file."""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The kept rows, parsed without the code under test."""
        return [json.loads(line) for line in self.examples.decode().split("\n") if line]

    @property
    def texts(self) -> list[str]:
        """The user's text of each kept row."""
        return ["\n".join(m["content"] for m in e["messages"] if m["role"] == "user") for e in self.rows]

    @property
    def by_line(self) -> list[tuple[str, int]]:
        """Sorted (rule, line) of all findings; line 0 for findings about the file."""
        places = [f["place"] if ":" in f["place"] else ":0" for f in self.findings]
        rules = [f["rule"].removeprefix("data.") for f in self.findings]
        return sorted((rule, int(place.rpartition(":")[2])) for rule, place in zip(rules, places, strict=True))

    @property
    def rules(self) -> Counter[str]:
        return Counter({rule.removeprefix("data."): n for rule, n in self.by_rule.items()})


def validate_file(path: Path, spec: TaskSpec, size: int = 8 << 20) -> Validated:
    """Validate a file in blocks of `size` bytes."""
    total = Validated()
    for block in validation.in_blocks(read_records(path, path.name, spec), path.name, size):
        result = validation.validate_block(block, spec)
        assert result.rows_in == result.kept + len(result.quarantine)
        total = Validated(**{name: value + getattr(result, name) for name, value in vars(total).items()})
    return total


def validate_row(row: Any, spec: TaskSpec = SPEC, file: str = FILE) -> ValidatedRow:
    """Validate a row, or a line's bytes, as line 7 of the file."""
    data = row if isinstance(row, bytes) else json.dumps(row).encode()
    return validate_record(Record(7, None, data, encoded=True), file, spec, mapping_of(spec))[0]


def row_rules(row: Any, spec: TaskSpec = SPEC) -> list[str]:
    """Sorted rules of the row's findings."""
    return sorted(f.rule.removeprefix("data.") for f in validate_row(row, spec).findings)


def kept_example(row: Any, spec: TaskSpec = SPEC) -> Example:
    """The example of a row that passes validation."""
    validated = validate_row(row, spec)
    assert validated.example is not None, validated.findings
    return validated.example


def table(rows: list[Any], delimiter: str = ",", end: str = "\n", **dialect: Any) -> str:
    """The rows in CSV."""
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, lineterminator=end, **dialect).writerows(rows)
    return out.getvalue()


def workbook(sheets: dict[str, list[Any]]) -> bytes:
    """An Excel workbook with these sheets."""
    book, out = openpyxl.Workbook(), io.BytesIO()
    book.remove(book.active)
    for title, rows in sheets.items():
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    book.save(out)
    return out.getvalue()


def validate_bytes(folder: Path, data: bytes, spec: TaskSpec, name: str = "a.jsonl") -> Validated:
    """Write these bytes to a file and validate it."""
    path = folder / name
    path.write_bytes(data)
    return validate_file(path, spec)


def records_of(folder: Path, data: bytes, spec: TaskSpec, name: str = "a.json") -> list[Record]:
    """Write these bytes to a file and read its records."""
    path = folder / name
    path.write_bytes(data)
    return list(read_records(path, name, spec))
