import gzip
import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune_pipeline.data.dedup.benchmarks import BenchmarkIndex, Item, Match, read_benchmark
from finetune_pipeline.data.dedup.boilerplate import MOST, Boilerplate, find_boilerplate, stripper
from finetune_pipeline.data.dedup.near_duplicates import candidate_pairs, loose_forms, near_duplicate_clusters, sketch
from finetune_pipeline.data.dedup.text_similarity import (
    exact_form,
    loose_form,
    near_any,
    odd_invisible,
    similarity,
    text_key,
)
from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import FindingsError
from finetune_pipeline_tests.unit.data.quality.makers import make

WORDS = [a + b for a in "lo ti me kur san plo wex".split() for b in "gin cket ssage ball der rix".split()]


def planted(seed: int = 3) -> list[str]:
    """Sixty texts and up to three edited copies of each."""
    rng = random.Random(seed)
    texts = []
    for _ in range(60):
        words = rng.choices(WORDS, k=rng.randint(6, 40))
        texts.append(" ".join(words))
        for _ in range(rng.randint(0, 3)):
            edited = list(words)
            for _ in range(rng.randint(0, 3)):
                edited[rng.randrange(len(edited))] = rng.choice(WORDS)
            texts.append(" ".join(edited).capitalize() + rng.choice(["", "!", "?"]))
    rng.shuffle(texts)
    return texts


@pytest.mark.parametrize("threshold", [0.6, 0.9])
def test_clusters_are_those_of_all_pairs_compared(threshold: float) -> None:
    texts = planted()
    close = [(i, j) for i, j in combinations(range(len(texts)), 2) if similarity(texts[i], texts[j]) >= threshold]
    assert len(close) > 10
    graph = coo_matrix((np.ones(len(close)), tuple(zip(*close, strict=True))), (len(texts), len(texts)))
    wanted = connected_components(graph, directed=False)[1]
    got = near_duplicate_clusters(texts, threshold)
    together = {(i, j) for i, j in combinations(range(len(texts)), 2) if got[i] == got[j]}
    assert together == {(i, j) for i, j in combinations(range(len(texts)), 2) if wanted[i] == wanted[j]}


def test_a_template_with_very_many_rows_is_one_cluster_of_few_pairs() -> None:
    texts = [f"Hello, I am on the list and cannot log in to the portal since the update, no {i}" for i in range(1500)]
    pairs = candidate_pairs(sketch(loose_forms(texts), 0.8), 0.8)
    assert len(set(near_duplicate_clusters(texts, 0.8).tolist())) == 1 and len(pairs) < 30 * len(texts)


@pytest.mark.parametrize(("threshold", "shared", "own"), [(0.5, 50, 25), (0.8, 24, 3), (0.95, 114, 3)])
def test_pairs_just_at_the_threshold_are_candidates(threshold: float, shared: int, own: int) -> None:
    """Texts i and i + 2000 have so many 5-grams in common and of their own, which makes them as alike as the threshold."""
    rng, count = np.random.default_rng(0), 2000
    letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
    head, *tails = (letters[rng.integers(0, 36, (count, n))] for n in (shared + 4, own, own))
    forms = [bytes(row).decode() for tail in tails for row in np.concatenate([head, tail], 1)]
    hits = {(a, b) for a, b in candidate_pairs(sketch(forms, threshold), threshold).tolist()}
    alike = [i for i in range(count) if similarity(forms[i], forms[i + count]) >= threshold - 1e-9]  # but for repeats
    assert len(alike) > 1600 and sum((i, i + count) in hits for i in alike) >= 0.998 * len(alike)
    assert len(hits) < 1.2 * count


def test_similarity_is_the_jaccard_of_character_5_grams() -> None:
    assert similarity("abcdef", "abcdeg") == pytest.approx(1 / 3)
    assert similarity("日本語のテキスト", "日本語のテキストです") == pytest.approx(4 / 6)
    assert similarity("abc", "abc!") == 1.0 != similarity("abc", "abd")
    assert similarity("aaaaaaa", "aaaaaaaaaaa") == 1.0


def test_forms_keep_what_tells_texts_apart() -> None:
    assert exact_form("  Ｈel\u200blo\n W\u00adORLD\u202c ") == "hello world"
    assert exact_form("a, b") != exact_form("a b") and loose_form("a, b!") == loose_form("A b")
    for a, b in (("disk at 5%", "disk at 95%"), ("C++ build", "C# build"), ("5 €", "5 $"), ("?!?", "...")):
        assert loose_form(a) != loose_form(b) and text_key(a) != text_key(b)
    needed = "👨\u200d👩\u200d👧 ❤\ufe0f می\u200cخواهم 1\ufe0f\u20e3 🏴\U000e0067\U000e0062\U000e007f"
    assert odd_invisible(needed) is None and odd_invisible("a\u200db, c\u200bd") == (2, "ZERO WIDTH JOINER", 1)
    assert near_any(["A parcel; never came", "no"], ["the invoice", "a parcel never came"], 0.8) == [True, False]


ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{}\n\n### Response:"
)
SYLLABLES = ["ka", "lo", "mi", "ren", "tu", "sol", "ba", "vi", "dor", "pe"]


def sayings(count: int, words: int, seed: int = 0) -> list[str]:
    """Texts that have nothing in common."""
    rng = random.Random(seed)
    said = [["".join(rng.choices(SYLLABLES, k=rng.randint(1, 4))) for _ in range(words)] for _ in range(count)]
    return [" ".join(words).capitalize() for words in said]


def test_templates_around_and_between_other_text_go_and_nothing_else_does() -> None:
    contents = sayings(300, 12)
    framed = [ALPACA.format(c) for c in contents]
    hits = find_boilerplate(framed)
    assert [stripper(hits)(text) for text in framed] == contents
    names, contents = sayings(200, 2, 1), sayings(200, 25)
    said = [
        f"Dear {n}, thank you for getting in touch with our support team. {c}. "
        f"We hope that this solves the problem you wrote about. Kind regards, {n}"
        for n, c in zip(names, contents, strict=True)
    ]
    hits = find_boilerplate(said)
    for text, content, name in zip(said, contents, names, strict=True):
        left = stripper(hits)(text)
        assert content in left and name in left and "support team" not in left and "Kind regards" not in left
    mixed = framed[:100] + sayings(300, 20, 1)
    hits = find_boilerplate(mixed)
    assert hits.segments and hits == find_boilerplate(reversed(mixed)) == find_boilerplate(mixed + mixed[:50])
    assert len(hits.segments) <= MOST
    order = "I would like to cancel my subscription, my order is {}, please confirm this by e-mail as soon as you can"
    repeated = [order.format(100 + i) for i in range(50)]  # a question that many ask is no template
    for texts in (repeated + sayings(200, 9), sayings(1000, 30), framed[:19], []):
        assert find_boilerplate(texts) == Boilerplate()


VOCABULARY = [f"word{i}" for i in range(400)]


def question(seed: int, words: int = 40) -> str:
    return " ".join(random.Random(seed).choices(VOCABULARY, k=words)) + "?"


ITEMS = [Item("bench.jsonl", i + 1, question(i)) for i in range(50)]
CLEAN = [make(question(1000 + i), question(2000 + i), i + 1) for i in range(200)]


def find(items: list[Item], rows: list[Example]) -> list[Match]:
    """The matches, in the order of rows."""
    return list(BenchmarkIndex(items).find(rows).values())


def test_planted_items_are_found_one_to_one_and_clean_rows_pass() -> None:
    assert not find(ITEMS, CLEAN)
    planted = [make(item.text, "an answer", 500 + item.line) for item in ITEMS]
    matches = find(ITEMS, CLEAN[:100] + planted + CLEAN[100:])
    exact = [(e.id, item.line, "exact") for e, item in zip(planted, ITEMS, strict=True)]
    assert [(m.id, m.line, m.how) for m in matches] == exact
    finding = matches[0].finding()
    assert finding.place == "raw/a.jsonl:501" and "bench.jsonl (line 1): its prompt is this item" in finding.message


def test_an_item_in_disguise_is_found() -> None:
    text = ITEMS[7].text
    words = text.split()
    words[20] = "changed"
    for row, how in (
        (make(f"Question: {text} Answer briefly.", "x"), "overlap"),
        (make("Tell me a riddle", f"Here it is: {text}"), "overlap"),
        (make(" ".join(words), "x"), "overlap"),
        (make(text.upper().replace(" ", "\n", 3), "x"), "exact"),
    ):
        (match,) = find(ITEMS, [*CLEAN, row])
        assert (match.id, match.line, match.how) == (row.id, 8, how) and match.covered >= 0.5


def test_less_than_half_of_an_item_is_not_it_and_a_short_one_matches_by_equality_alone() -> None:
    words = ITEMS[7].text.split()
    half = [make(" ".join(words[:n]) + " and something else entirely", "x", n) for n in (13, 19, 20)]
    assert [(m.place, m.covered) for m in find(ITEMS, half)] == [("raw/a.jsonl:20", 0.5)]
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


FILES: list[tuple[str, Any, list[tuple[int, str]]]] = [
    ("a.jsonl", '{"question": "Q1", "answer": "long answer here"}\n\n{"question": "Q2"}\n', [(1, "Q1"), (3, "Q2")]),
    ("a.json", [{"instruction": "I", "input": "x"}, {"instruction": "J", "input": ""}], [(1, "I\n\nx"), (2, "J")]),
    ("a.json", {"train": [["text one", "l"]], "test": [["text two", "l"]]}, [(1, "text one"), (2, "text two")]),
    ("a.json", [{"instruction": "I", "instances": [{"input": "a"}, {"input": "b"}]}], [(1, "I\n\na"), (1, "I\n\nb")]),
    ("a.json", [{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "no"}]}], [(1, "hi")]),
    ("a.json", [{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}], [(1, "hi")]),
    ("a.json", [{"strange": {"deep": ["ab", "abc"]}}], [(1, "abc")]),
    ("a.txt", "\none\ntwo\n\n \nthree\n", [(2, "one\ntwo"), (6, "three")]),
    ("a.tsv.gz", "context\tquestion\nIt rained.\tIs it wet?\n", [(2, "It rained.\n\nIs it wet?")]),
]


def test_items_of_a_file(tmp_path: Path) -> None:
    for name, content, expected in FILES:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        items = read_benchmark(tmp_path / name)
        assert [(i.line, i.text) for i in items] == expected and {i.file for i in items} == {name}


def test_what_cannot_be_read_whole_is_named(tmp_path: Path) -> None:
    """Lost characters and a file cut off would hide the rows that repeat an item."""
    rows = json.dumps({"question": question(1)}).encode() * 9
    for name, content, place in (
        ("b.jsonl", b'{"question": "q"}\n{oops\n', "b.jsonl:2"),
        ("b.xls", b"x", "b.xls"),
        ("b.jsonl", b"\n", "b.jsonl"),
        ("b.csv", b"question,gold\nWhy?,1\nWhich?,1,2\n", "b.csv:3"),
        ("b.parquet", b"PAR1", "b.parquet"),
        ("b.txt", "Größe?".encode("cp1252"), "b.txt"),
        ("b.txt.gz", gzip.compress(rows)[:-12], "b.txt.gz"),
        ("b.jsonl.gz", gzip.compress(rows)[:-12], "b.jsonl.gz:1"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FindingsError) as error:
            read_benchmark(tmp_path / name)
        assert error.value.findings[0].place == place
