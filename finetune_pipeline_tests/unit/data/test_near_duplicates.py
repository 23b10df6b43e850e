from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune_pipeline.data.near_duplicates import bands_for, near_duplicate_clusters
from finetune_pipeline.data.shingles import exact_form, loose_form, shingle_sets, similarity, text_key, window_hashes

WORDS = [
    a + b
    for a in ("lo", "ti", "me", "kur", "san", "plo", "wex")
    for b in ("gin", "cket", "ssage", "ball", "der", "rix")
]


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


def test_bands_miss_almost_nothing_at_any_threshold() -> None:
    for threshold in (0.35, 0.5, 0.65, 0.8, 0.9, 1.0):
        bands, rows = bands_for(threshold)
        assert bands * rows <= 252
        assert (1 - threshold**rows) ** bands < 1e-5
    assert bands_for(0.8) == (42, 6)


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_clusters_are_those_of_all_pairs_compared(threshold: float) -> None:
    rng = random.Random(3)
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
    close = [(i, j) for i, j in combinations(range(len(texts)), 2) if reference(texts[i], texts[j]) >= threshold]
    assert len(close) > 10
    graph = coo_matrix((np.ones(len(close)), tuple(zip(*close, strict=True))), (len(texts), len(texts)))
    wanted = connected_components(graph, directed=False)[1]
    got = near_duplicate_clusters(texts, threshold)
    together = {(i, j) for i, j in combinations(range(len(texts)), 2) if got[i] == got[j]}
    assert together == {(i, j) for i, j in combinations(range(len(texts)), 2) if wanted[i] == wanted[j]}


def test_a_template_with_very_many_rows_is_one_cluster() -> None:
    texts = [
        f"Hello, my name is on the list and I cannot log in to the portal since the update, number {i}"
        for i in range(700)
    ]
    assert len(set(near_duplicate_clusters(texts, 0.8).tolist())) == 1


def test_small_inputs() -> None:
    assert near_duplicate_clusters([], 0.8).tolist() == []
    assert near_duplicate_clusters(["a"], 0.8).tolist() == [0]
    got = near_duplicate_clusters(["?!?", "...", "a", "A!", "b"], 0.8).tolist()
    assert got[2] == got[3] and len(set(got)) == 4
