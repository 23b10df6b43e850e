from __future__ import annotations

import numpy as np
import pytest

from finetune_pipeline.data.dedup.text_similarity import (
    exact_form,
    gram_hashes,
    jaccard,
    keeps,
    loose_form,
    near_any,
    shingle_sets,
    similar_pairs,
    similarity,
    text_key,
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
    alone = [gram_hashes([t])[0] for t in ("abcdefg", "xy", "hello world")]
    hashes, offsets = gram_hashes(["abcdefg", "xy", "hello world"])
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


def test_similar_pairs_are_those_of_all_pairs_compared() -> None:
    texts = [
        "the invoice of may is wrong",
        "the invoice of may was wrong",
        "a parcel never came",
        "The invoice of May!",
    ]
    sets = shingle_sets([loose_form(t) for t in texts])
    wanted = {(i, j): jaccard(a, b) for i, a in enumerate(sets) for j, b in enumerate(sets) if jaccard(a, b) >= 0.5}
    assert {(i, j): s for i, j, s in similar_pairs(sets, sets, 0.5)} == pytest.approx(wanted) and len(wanted) > 4
    assert list(similar_pairs(sets, [], 0.5)) == [] == list(similar_pairs([], sets, 0.5))


def test_a_text_is_near_when_any_other_reaches_the_threshold() -> None:
    texts = ["the invoice of may is wrong, please look", "a parcel never came to the harbour", "", "short"]
    others = [
        *(f"something else entirely, number {i}" for i in range(3000)),
        "The invoice of May is wrong; please look!",
    ]
    others.append("the parcel never came to a harbour")
    likest = max(similarity(texts[1], o) for o in others)
    assert near_any(texts, others, 0.8) == [True, False, False, False]
    assert near_any(texts, others, likest)[1] and not near_any(texts, others, likest + 0.01)[1]
    assert near_any([], others, 0.8) == [] and near_any(texts, [], 0.8) == [False] * 4
