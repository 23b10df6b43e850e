"""Rows that repeat a benchmark are found one to one; what only looks alike is not."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data.dedup.benchmarks import BenchmarkIndex, Item, Match, read_benchmark
from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import FindingsError
from finetune_pipeline_tests.unit.data.quality.makers import make

WORDS = [f"word{i}" for i in range(400)]


def question(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words)) + "?"


ITEMS = [Item("bench.jsonl", i + 1, question(i)) for i in range(50)]
CLEAN = [make(question(1000 + i), question(2000 + i), i + 1) for i in range(200)]


def find(items: list[Item], rows: list[Example]) -> list[Match]:
    """The matches, in the order of rows."""
    return list(BenchmarkIndex(items).find(rows).values())


def test_clean_rows_pass() -> None:
    assert not find(ITEMS, CLEAN)


def test_planted_items_are_found_one_to_one() -> None:
    planted = [make(item.text, "an answer", 500 + item.line) for item in ITEMS]
    rows = CLEAN[:100] + planted + CLEAN[100:]
    matches = find(ITEMS, rows)
    assert [(m.id, m.line, m.how) for m in matches] == [
        (e.id, item.line, "exact") for e, item in zip(planted, ITEMS, strict=True)
    ]
    finding = matches[0].finding()
    assert finding.place == "raw/a.jsonl:501" and "bench.jsonl (line 1): its prompt is that item" in finding.message


@pytest.mark.parametrize("where", ["wrapped", "answer", "edited", "cased"])
def test_an_item_in_disguise_is_found(where: str) -> None:
    text = ITEMS[7].text
    words = text.split()
    words[20] = "changed"
    row = {
        "wrapped": make(f"Question: {text} Answer briefly.", "x"),
        "answer": make("Tell me a riddle", f"Here it is: {text}"),
        "edited": make(" ".join(words), "x"),
        "cased": make(text.upper().replace(" ", "\n", 3), "x"),
    }[where]
    (match,) = find(ITEMS, [*CLEAN, row])
    assert (match.id, match.line) == (row.id, 8)
    assert match.how == ("exact" if where == "cased" else "overlap") and match.covered >= 0.5


def test_less_than_half_of_an_item_is_not_it() -> None:
    words = ITEMS[7].text.split()
    half = [make(" ".join(words[:n]) + " and something else entirely", "x", n) for n in (13, 19, 20)]
    assert [(m.place, m.covered) for m in find(ITEMS, half)] == [("raw/a.jsonl:20", 0.5)]


def test_short_items_match_by_equality_alone() -> None:
    items = [Item("s.txt", 1, "What is the capital of France?")]
    asked = ("what is the  capital of france?", "Now: What is the capital of France?")
    rows = [make(text, "Paris", line) for line, text in enumerate(asked, 1)]
    assert [(m.place, m.how) for m in find(items, rows)] == [("raw/a.jsonl:1", "exact")]


def test_the_boilerplate_of_a_benchmark_proves_nothing() -> None:
    frame = "Below is an instruction that describes a task. Write a response that completes it in a fitting way. "
    items = [Item("framed.jsonl", i + 1, frame + question(i, 15)) for i in range(100)]
    rows = [make(frame + question(5000 + i, 15), "x", i) for i in range(50)]
    assert not find(items, rows)
    (match,) = find(items, [*rows, make("Please: " + question(3, 15), "x", 99)])
    assert match.line == 4


def write(path: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", '{"question": "Q1", "answer": "long answer here"}\n\n{"question": "Q2"}\n', [(1, "Q1"), (3, "Q2")]),
        ("a.jsonl.gz", '{"query": "Q", "choices": ["aaaaaaa"]}\n', [(1, "Q")]),
        ("a.json", [{"instruction": "I", "input": "x"}, {"instruction": "J", "input": ""}], [(1, "I\n\nx"), (2, "J")]),
        ("a.json", {"train": [["text one", "l"]], "test": [["text two", "l"]]}, [(1, "text one"), (2, "text two")]),
        (
            "a.json",
            [{"instruction": "I", "instances": [{"input": "a"}, {"input": "b"}]}],
            [(1, "I\n\na"), (1, "I\n\nb")],
        ),
        (
            "a.json",
            [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "no"}]}],
            [(1, "hi")],
        ),
        ("a.json", [{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}], [(1, "hi")]),
        ("a.json", [{"strange": {"deep": ["ab", "abc"]}}], [(1, "abc")]),
        ("a.txt", "\none\ntwo\n\n \nthree\n", [(2, "one\ntwo"), (6, "three")]),
        ("a.tsv.gz", "context\tquestion\nIt rained.\tIs it wet?\n", [(2, "It rained.\n\nIs it wet?")]),
    ],
)
def test_items_of_a_file(tmp_path: Path, name: str, content: Any, expected: list[tuple[int, str]]) -> None:
    items = read_benchmark(write(tmp_path / name, content))
    assert [(i.line, i.text) for i in items] == expected and {i.file for i in items} == {name}


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("b.jsonl", b'{"question": "q"}\n{oops\n', "b.jsonl:2"),
        ("b.xls", b"x", "b.xls"),
        ("b.jsonl", b"\n", "b.jsonl"),
        ("b.csv", b"question,gold\nWhy?,1\nWhich?,1,2\n", "b.csv:3"),
        ("b.parquet", b"PAR1", "b.parquet"),
        ("b.txt", "Größe?".encode("cp1252"), "b.txt"),
        ("b.txt.gz", gzip.compress(question(1).encode())[:-12], "b.txt.gz"),
        ("b.jsonl.gz", gzip.compress(json.dumps({"question": question(1)}).encode() * 9)[:-12], "b.jsonl.gz:1"),
    ],
)
def test_what_cannot_be_read_whole_is_named(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    """Lost characters and a file cut off would hide the rows that repeat an item."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FindingsError) as error:
        read_benchmark(tmp_path / name)
    assert error.value.findings[0].place == place
