import json
import operator
from collections import Counter
from pathlib import Path

import pytest

from finetune_pipeline.evaluation.ability.items import load_items, read_items, suite
from finetune_pipeline.findings import FindingsError


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), "utf-8")
    return path


def test_the_suite_covers_what_it_promises_and_its_arithmetic_is_right() -> None:
    items = suite()
    kinds = Counter(i.category for i in items)
    assert set(kinds) == {*"arithmetic reading instructions knowledge json safety common_sense plain_text".split()}
    assert 150 <= len(items) <= 300 and min(kinds.values()) >= 20
    assert len({i.id for i in items}) == len(items)
    words, judged = {"+": operator.add, "-": operator.sub, "times": operator.mul, "divided": operator.floordiv}, 0
    for item in items:
        parts = item.prompt.split("?")[0].split()
        if item.category == "arithmetic" and item.prompt.startswith("What is ") and parts[2].isdigit():
            assert item.choices[item.right] == str(words[parts[3]](int(parts[2]), int(parts[-1]))), item
            judged += 1
    assert judged == 24


def test_forms_of_benchmark_files(tmp_path: Path) -> None:
    forms: list[object] = [
        {"prompt": "Two and two?", "answer": "4", "others": ["5"], "category": "sums"},
        {"query": "The sky is", "choices": ["green", "blue"], "gold": 1},
        {"context": "To be or not to", "continuation": "be"},
        {"text": "A plain sentence."},
    ]
    chat, choice, cloze, text = read_items(write(tmp_path / "mixed.jsonl", forms))
    assert (chat.chat, chat.category, chat.choices, chat.right) == (True, "sums", ("4", "5"), 0)
    assert (choice.chat, choice.category, choice.choices[choice.right]) == (False, "mixed", "blue")
    assert (cloze.prompt, cloze.text, cloze.choices) == ("To be or not to", "be", ())
    assert (text.prompt, text.text) == ("", "A plain sentence.")
    assert [i.id for i in (chat, text)] == ["mixed.jsonl:1", "mixed.jsonl:4"]
    marked = tmp_path / "marked.jsonl"
    marked.write_text('\ufeff{"text": "a\u2028b"}\n', "utf-8")
    assert [i.text for i in read_items(marked)] == ["a\u2028b"], "a byte order mark, and a line break that JSON allows"


def test_all_faults_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    faults: dict[str, object] = {
        "gold is 2": {"query": "q", "choices": ["a", "b"], "gold": 2},
        "gold is True": {"query": "q", "choices": ["a", "b"], "gold": True},
        "all different": {"query": "q", "choices": ["a", "a"], "gold": 0},
        "not empty": {"query": "q", "choices": ["a", ""], "gold": 0},
        "query must be": {"query": "", "choices": ["a", "b"], "gold": 0},
        "it has the keys question": {"question": "q"},
        "no JSON object": [1],
        "half of a surrogate pair": {"text": "\ud83d"},
    }
    faulty = write(tmp_path / "bad.jsonl", [{"text": "fine"}, *faults.values()])
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(FindingsError) as caught:
        load_items([faulty, tmp_path / "empty.jsonl", tmp_path / "gone.jsonl"], 10)
    findings = caught.value.findings
    lines = [f"bad.jsonl, line {n}" for n in range(2, 2 + len(faults))]
    assert [f.place for f in findings] == [*lines, "empty.jsonl", "gone.jsonl"]
    for finding, message in zip(findings, faults, strict=False):
        assert message in finding.message


def test_a_limit_chooses_the_same_rows_whatever_comes_after(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "query": f"q{i}", "choices": ["a", "b"], "gold": 0} for i in range(40)]
    few = {i.id for i in read_items(write(tmp_path / "b.jsonl", rows), limit=10)}
    reversed_ids = {i.id for i in read_items(write(tmp_path / "b.jsonl", rows[::-1]), limit=10)}
    assert len(few) == 10 and few == reversed_ids
    same_name = [{**row, "id": "r"} for row in rows]
    assert len(read_items(write(tmp_path / "b.jsonl", same_name), limit=10)) == 10
