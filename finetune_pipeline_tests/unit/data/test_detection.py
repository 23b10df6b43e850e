from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.raw_files import detect
from finetune_pipeline_tests.unit.data.raw_rows import as_lines
from finetune_pipeline_tests.unit.data.rows import TEXT_OUTPUT, chat, make_spec

SHAREGPT = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}


@pytest.mark.parametrize(
    ("rows", "shape", "said"),
    [
        ([chat()], "messages", "1 hold `messages`: OpenAI chat"),
        ([{"text": "a", "label": "b"}, {"label": "b"}], "text_label", "2 hold `text` or `label`"),
        ([{"prompt": "a", "completion": "b"}], "prompt_completion", "a prompt and its completion"),
        ([{"question": "a", "answer": "b"}], "prompt_completion", "a prompt and its completion"),
        ([{"instruction": "a", "input": "", "output": "b"}], "instruction", "`instruction`"),
        ([SHAREGPT], "sharegpt", "ShareGPT"),
        (
            [chat(), {"text": "a", "label": "b"}, b"{broken"],
            "mixed",
            "of the first 3 rows 1 hold `messages`: OpenAI chat and 1 hold",
        ),
        ([{"a": 1}, [1]], "unknown", "none is in a known format"),
    ],
)
def test_shapes_of_rows(tmp_path: Path, rows: list[Any], shape: str, said: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(as_lines(rows))
    detected = detect(path, "a.jsonl", make_spec())
    assert (detected.shape, detected.container, detected.compressed) == (
        shape,
        "json_lines",
        False,
    ) and said in detected.reason


def test_a_document_and_what_packs_it(tmp_path: Path) -> None:
    for name, data, packed in (
        ("a.jsonl", json.dumps([SHAREGPT] * 300), False),
        ("a.json.gz", json.dumps([SHAREGPT] * 300), True),
    ):
        path = tmp_path / name
        path.write_bytes(gzip.compress(data.encode()) if packed else data.encode())
        detected = detect(path, name, make_spec())
        assert (detected.container, detected.compressed, detected.shape) == ("json", packed, "sharegpt")
        assert "JSON array" in detected.reason and "of the first 200 rows 200 hold" in detected.reason
        assert detected.reason.startswith("gzip") == packed
        assert ("whatever the suffix says" in detected.reason) == (name == "a.jsonl")


def test_a_table_and_its_dialect(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'text;label;n\n"a;b";x;1\nc;y;2\n')
    detected = detect(path, "a.csv", make_spec())
    assert detected.details == {"delimiter": ";", "quote": '"', "header": True, "columns": ["text", "label", "n"]}
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
