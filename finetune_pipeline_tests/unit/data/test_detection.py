from __future__ import annotations

import json
from pathlib import Path

from finetune_pipeline.data.raw_files import detect
from finetune_pipeline.data.readers.any_file import look_at
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, make_spec


def test_a_table_and_its_dialect(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text;label;n\n"a;b";x;1\nc;y;2\n')
    detected = detect(path, "a.csv", make_spec())
    dialect = look_at(path, "a.csv", make_spec())[0].dialect
    assert dialect and (dialect.delimiter, dialect.quote, dialect.columns) == (";", '"', ("text", "label", "n"))
    assert (detected.container, detected.shape) == ("csv", "text_label")
    assert "delimiter ';' and quote \" give 3 fields in all of the first 3 lines" in detected.reason


def test_a_mapping_shows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(json.dumps({"x": [["a b", "x"]] * 3, "y": [["c d"]]}).encode())
    spec = make_spec(TEXT_OUTPUT, fields={"text": "[0]", "label": "[1]"})
    detected = detect(path, "a.json", spec)
    assert detected.shape == "mapped" and "of the first 4 rows 3 hold what data.fields names" in detected.reason


def test_what_holds_nothing_or_is_nothing(tmp_path: Path) -> None:
    for data, name, container, said in (
        (b"", "a.jsonl", "json_lines", "no rows"),
        (b"plain prose\n", "a.txt", "unknown", "no line holds a delimiter"),
        (b"only\n", "a.csv", "csv", "no line holds a delimiter"),
        (b"PAR1 but not really", "a.parquet", "parquet", "Parquet"),
    ):
        (tmp_path / name).write_bytes(data)
        detected = detect(tmp_path / name, name, make_spec())
        assert (detected.container, detected.shape) == (container, "unknown") and said in detected.reason
