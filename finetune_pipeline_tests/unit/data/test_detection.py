"""What a file is taken for, and the reason `finetune check` gives."""

from __future__ import annotations

from pathlib import Path

from finetune_pipeline.data.raw_files import container_facts
from finetune_pipeline.data.readers.any_file import look_at
from finetune_pipeline_tests.unit.data.rows import make_spec


def test_a_table_and_its_dialect(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text;label;n\n"a;b";x;1\nc;y;2\n')
    dialect = look_at(path, "a.csv", make_spec())[0].dialect
    assert dialect and (dialect.delimiter, dialect.quote, dialect.columns) == (";", '"', ("text", "label", "n"))
    seen = container_facts(path, "a.csv", make_spec())
    assert seen["container"] == "csv"
    assert "delimiter ';' and quote \" give 3 fields in all of the first 3 lines" in seen["reason"]


def test_what_holds_nothing_or_is_nothing(tmp_path: Path) -> None:
    for data, name, container, said in (
        (b"plain prose\n", "a.txt", "unknown", "no line holds a delimiter"),
        (b"only\n", "a.csv", "csv", "no line holds a delimiter"),
        (b"PAR1 but not really", "a.parquet", "parquet", "Parquet"),
    ):
        (tmp_path / name).write_bytes(data)
        seen = container_facts(tmp_path / name, name, make_spec())
        assert seen["container"] == container and said in seen["reason"]
