from __future__ import annotations

import numpy as np
import pytest

from finetune_pipeline.data.dedup.text_similarity import (
    exact_form,
    incidence,
    jaccard,
    keeps,
    loose_form,
    shingle_sets,
    similarity,
    text_key,
    window_hashes,
)


def reference(a: str, b: str) -> float:
    """Jaccard of character 5-grams by sets of strings."""
    x, y = ({f[i : i + 5] for i in range(max(1, len(f) - 4))} for f in (loose_form(a), loose_form(b)))
    return len(x & y) / len(x | y)


def test_similarity_is_the_jaccard_of_character_5_grams() -> None:
    pairs = [
        ("The export fails", "The export failed"),
        ("abc", "abc!"),
        ("abc", "abd"),
        ("größer als 5", "grosser als 5"),
        ("日本語のテキスト", "日本語のテキストです"),
        ("😀😀😀😀😀😀", "😀😀😀😀😀"),
        ("aaaaaaa", "aaaaaaaaaaa"),
    ]
    for a, b in pairs:
        assert similarity(a, b) == pytest.approx(reference(a, b)), (a, b)
    assert similarity("aaaaaaa", "aaaaaaaaaaa") == 1.0


def test_windows_do_not_reach_into_the_next_row() -> None:
    alone = [window_hashes([t])[0] for t in ("abcdefg", "xy", "hello world")]
    hashes, offsets = window_hashes(["abcdefg", "xy", "hello world"])
    assert offsets.tolist() == [0, 3, 4, 11]
    assert np.array_equal(hashes, np.concatenate(alone))
    assert shingle_sets(["abcdefg"])[0].dtype == np.uint32


def test_forms_keep_what_tells_texts_apart() -> None:
    assert exact_form("  Ｈello\n WORLD ") == "hello world"
    assert exact_form("a, b") != exact_form("a b") and loose_form("a, b!") == loose_form("A b")
    for a, b in (("disk at 5%", "disk at 95%"), ("C++ build", "C# build"), ("error 41", "error 42"), ("5 €", "5 $")):
        assert loose_form(a) != loose_form(b) and text_key(a) != text_key(b)
    assert loose_form("?!?") == "?!?" != loose_form("...")


def test_which_characters_stay() -> None:
    assert all(map(keeps, "aß日1²+<$%#&@*/\\😀\u0301"))
    assert not any(map(keeps, " \t.,:;!?'\"()[]{}-_–“\u200b\x00"))


def test_incidence_leaves_out_what_is_in_no_column() -> None:
    sets = shingle_sets(["abcdefg", "cdefghi"])
    both = np.intersect1d(*sets)
    matrix = incidence(sets, both)
    assert matrix.toarray().tolist() == [[1], [1]] and jaccard(*sets) == pytest.approx(1 / 5)
