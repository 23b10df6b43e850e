"""Hashes of runs of words and characters: equal where the runs are equal, and only there."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_pipeline.data.dedup.grams import Grams, char_grams, word_grams

TEXTS = ["a b c d", "b c", "x", "", "é b c ü", "日本 b c d", "b c d"]


def grouped(grams: Grams) -> list[list[int]]:
    """Texts of each distinct gram, in order of appearance."""
    found: dict[int, list[int]] = defaultdict(list)
    for row, code in zip(grams.rows.tolist(), grams.hashes.tolist(), strict=True):
        found[code].append(row)
    return sorted(found.values())


def expected_words(texts: list[str], size: int) -> list[list[int]]:
    found: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        words = text.split()
        for i in range(len(words) - size + 1):
            found[tuple(words[i : i + size])].append(row)
    return sorted(found.values())


@pytest.mark.parametrize("size", [1, 2, 3, 13])
def test_runs_of_words(size: int) -> None:
    assert grouped(word_grams(TEXTS, size)) == expected_words(TEXTS, size)
    assert len(word_grams(TEXTS, size).offsets) == len(TEXTS) + 1


@pytest.mark.parametrize("size", [3, 4, 5])
def test_runs_of_characters_with_a_blank_around(size: int) -> None:
    found: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(TEXTS):
        padded = f" {text} ".ljust(size)
        for i in range(len(padded) - size + 1):
            found[padded[i : i + size]].append(row)
    assert grouped(char_grams(TEXTS, size)) == sorted(found.values())


@given(st.lists(st.text("ab é", max_size=12).map(lambda t: " ".join(t.split())), max_size=6), st.integers(1, 4))
def test_any_texts(texts: list[str], size: int) -> None:
    assert grouped(word_grams(texts, size)) == expected_words(texts, size)


def test_a_run_has_one_hash_whatever_block_it_stands_in() -> None:
    long = "filler " * 200_000 + "one two three"
    grams = word_grams([long.strip(), "one two three"], 3)
    assert grams.hashes[grams.offsets[1] - 1] == grams.hashes[-1]
