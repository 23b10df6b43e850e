"""Raw rows and files the ingest tests share, and the whole way from a file to validated rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

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


def validate_file(path: Path, spec: TaskSpec, file: str = "", size: int = 8 << 20) -> ValidatedBlock:
    """The result for all blocks of a file together."""
    whole = ValidatedBlock()
    for block in validation.in_blocks(read_records(path, file or path.name, spec), file or path.name, size):
        result = validation.validate_block(block, spec)
        assert result.rows_in == result.kept + len(result.quarantine)
        whole = ValidatedBlock(**{name: value + getattr(result, name) for name, value in vars(whole).items()})
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


def validate_bytes(folder: Path, data: bytes, spec: TaskSpec, name: str = "a.jsonl", **more: Any) -> ValidatedBlock:
    """The result for a file that holds these bytes."""
    path = folder / name
    path.write_bytes(data)
    return validate_file(path, spec, **more)


def records_of(folder: Path, data: bytes, spec: TaskSpec, name: str = "a.json") -> list[Record]:
    """The records of a file that holds these bytes."""
    path = folder / name
    path.write_bytes(data)
    return list(read_records(path, name, spec))


def examples(result: ValidatedBlock) -> list[dict[str, Any]]:
    """The kept rows, by another reader than the code under test."""
    return [json.loads(line) for line in result.examples.decode().split("\n") if line]


def texts(result: ValidatedBlock) -> list[str]:
    """What the user says in each kept row."""
    return ["\n".join(m["content"] for m in e["messages"] if m["role"] == "user") for e in examples(result)]


def rules_by_line(result: ValidatedBlock) -> list[tuple[str, int]]:
    """(rule, line) of every finding, sorted; line 0 where it is about the file as a whole."""
    return sorted(
        (f["rule"].removeprefix("data."), int(f["place"].rpartition(":")[2] if ":" in f["place"] else 0))
        for f in result.findings
    )


def rules(result: ValidatedBlock) -> Counter[str]:
    return Counter({rule.removeprefix("data."): n for rule, n in result.by_rule.items()})
