from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from finetune_pipeline.evaluation.ability.items import load_items, read_items, suite
from finetune_pipeline.findings import FindingsError


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return path


def test_the_suite_covers_what_it_promises() -> None:
    items = suite()
    kinds = Counter(i.category for i in items)
    assert set(kinds) == {
        "arithmetic",
        "reading",
        "instructions",
        "knowledge",
        "json",
        "safety",
        "common_sense",
        "plain_text",
    }
    assert 150 <= len(items) <= 300
    assert min(kinds.values()) >= 20
    assert len({i.id for i in items}) == len(items)


def test_arithmetic_of_the_suite_is_right() -> None:
    words = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "times": lambda a, b: a * b,
        "divided": lambda a, b: a // b,
    }
    judged = 0
    for item in suite():
        parts = item.prompt.split("?")[0].split()
        if item.category == "arithmetic" and item.prompt.startswith("What is ") and parts[2].isdigit():
            assert item.choices[item.right] == str(words[parts[3]](int(parts[2]), int(parts[-1]))), item
            judged += 1
    assert judged == 24


def test_forms_of_benchmark_files(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mixed.jsonl",
        [
            {"prompt": "Two and two?", "answer": "4", "others": ["5"], "category": "sums"},
            {"query": "The sky is", "choices": ["green", "blue"], "gold": 1},
            {"context": "To be or not to", "continuation": "be"},
            {"text": "A plain sentence."},
        ],
    )
    chat, choice, cloze, text = read_items(path)
    assert (chat.chat, chat.category, chat.choices, chat.right) == (True, "sums", ("4", "5"), 0)
    assert (choice.chat, choice.category, choice.choices[choice.right]) == (False, "mixed", "blue")
    assert (cloze.prompt, cloze.text, cloze.choices) == ("To be or not to", "be", ())
    assert (text.prompt, text.text) == ("", "A plain sentence.")
    assert [i.id for i in (chat, text)] == ["mixed.jsonl:1", "mixed.jsonl:4"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "gold is 2"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, "gold is True"),
        ({"query": "q", "choices": ["a", "a"], "gold": 0}, "all different"),
        ({"query": "q", "choices": ["a", ""], "gold": 0}, "not empty"),
        ({"query": "", "choices": ["a", "b"], "gold": 0}, "query must be"),
        ({"question": "q"}, "it has the keys question"),
        ([1], "no JSON object"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, row: object, told: str) -> None:
    path = write(tmp_path / "bench.jsonl", [{"text": "fine"}, row])
    with pytest.raises(FindingsError) as caught:
        read_items(path)
    (finding,) = caught.value.findings
    assert finding.place == "bench.jsonl, line 2"
    assert told in finding.message


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [{"nothing": 1}, {"nothing": 2}])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(FindingsError) as caught:
        load_items([bad, tmp_path / "empty.jsonl", tmp_path / "gone.jsonl"], 10)
    places = [f.place for f in caught.value.findings]
    assert places == ["bad.jsonl, line 1", "bad.jsonl, line 2", "empty.jsonl", "gone.jsonl"]


def test_a_limit_chooses_the_same_rows_whatever_comes_after(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "query": f"q{i}", "choices": ["a", "b"], "gold": 0} for i in range(40)]
    few = {i.id for i in read_items(write(tmp_path / "b.jsonl", rows), limit=10)}
    again = {i.id for i in read_items(write(tmp_path / "b.jsonl", rows[::-1]), limit=10)}
    assert len(few) == 10
    assert few == again
