from __future__ import annotations

import random
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune_pipeline.data.dedup import kernels
from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import (
    BANDS,
    COLUMNS,
    candidate_pairs,
    components,
    near_duplicate_clusters,
    near_duplicate_pairs,
    rows_of_a_band,
    similarities,
    sketch,
)
from finetune_pipeline.data.dedup.text_similarity import loose_form

WORDS = [
    a + b
    for a in ("lo", "ti", "me", "kur", "san", "plo", "wex")
    for b in ("gin", "cket", "ssage", "ball", "der", "rix")
]


def reference(a: str, b: str) -> float:
    """Jaccard of character 5-grams by sets of strings."""
    x, y = ({f[i : i + 5] for i in range(max(1, len(f) - 4))} for f in (loose_form(a), loose_form(b)))
    return len(x & y) / len(x | y)


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


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
def test_clusters_are_those_of_all_pairs_compared(threshold: float) -> None:
    texts = planted()
    close = [(i, j) for i, j in combinations(range(len(texts)), 2) if reference(texts[i], texts[j]) >= threshold]
    assert len(close) > 10
    graph = coo_matrix((np.ones(len(close)), tuple(zip(*close, strict=True))), (len(texts), len(texts)))
    wanted = connected_components(graph, directed=False)[1]
    got = near_duplicate_clusters(texts, threshold)
    together = {(i, j) for i, j in combinations(range(len(texts)), 2) if got[i] == got[j]}
    assert together == {(i, j) for i, j in combinations(range(len(texts)), 2) if wanted[i] == wanted[j]}


def test_pairs_come_with_their_similarity() -> None:
    texts = planted()
    pairs, likeness = near_duplicate_pairs(texts, 0.7)
    assert len(pairs) > 20 and (pairs[:, 0] < pairs[:, 1]).all()
    assert likeness.tolist() == pytest.approx([reference(texts[a], texts[b]) for a, b in pairs])
    assert (likeness >= 0.7).all() and (likeness < 0.9).any()


def test_equal_forms_are_paired_with_the_first_of_them_only() -> None:
    texts = [
        "Restart the server, please.",
        "How do I get there?",
        *["restart the server please"] * 40,
        "restart the server plese",
    ]
    pairs, likeness = near_duplicate_pairs(texts, 0.6)
    assert pairs.tolist() == [[0, i] for i in range(2, 43)]
    assert set(likeness[:-1]) == {1.0} and likeness[-1] < 1


def test_a_template_with_very_many_rows_is_one_cluster_of_few_pairs() -> None:
    texts = [
        f"Hello, my name is on the list and I cannot log in to the portal since the update, number {i}"
        for i in range(3000)
    ]
    pairs, _ = near_duplicate_pairs(texts, 0.8)
    assert len(set(components(len(texts), pairs).tolist())) == 1
    assert len(pairs) < 30 * len(texts)


def test_boilerplate_is_left_out() -> None:
    preamble = "You are a careful assistant of a bank. Answer the following question in one short sentence.\n"
    texts = [
        preamble + t for t in ("Where is the branch?", "How do I pay a bill?", "how do I pay a bill", "My card is gone")
    ]
    assert len(set(near_duplicate_clusters(texts, 0.7).tolist())) < 3
    pairs, likeness = near_duplicate_pairs(texts, 0.7, Boilerplate((preamble,)))
    assert pairs.tolist() == [[1, 2]] and likeness.tolist() == [1.0]


def test_components_are_numbered_by_their_first_row() -> None:
    assert components(5, np.array([[1, 3], [3, 4]])).tolist() == [0, 1, 2, 1, 1]
    assert components(2, np.zeros((0, 2), np.int64)).tolist() == [0, 1]
    assert components(0, np.zeros((0, 2), np.int64)).tolist() == []


def test_small_inputs() -> None:
    assert near_duplicate_clusters([], 0.8).tolist() == []
    assert near_duplicate_clusters(["a"], 0.8).tolist() == [0]
    got = near_duplicate_clusters(["?!?", "...", "a", "A!", "b"], 0.8).tolist()
    assert got[2] == got[3] and len(set(got)) == 4


LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)
ODD = "aäß東京éＡﬁ½İıΣςσ ,.!?-_+#%\t\n\u3000\u00a0😀\ud800\u0301\u0345ㄱ가각ẞ𝔸x y'’“”\x1c"


def odd_forms(count: int) -> list[str]:
    rng = random.Random(1)
    texts = ["".join(rng.choices(ODD, k=rng.randint(0, 80))) for _ in range(count)]
    texts += ["", "a", "!!!", "...", " \n", "—", "abcd", "日本", "plain words, plain words; and More"]
    return [loose_form(t) for t in texts + [t.upper() + " edited" for t in texts[:100]]]


def test_similarities_are_those_of_sets_of_strings() -> None:
    forms = odd_forms(60)
    pairs = np.array(list(combinations(range(len(forms)), 2)))[:: len(forms) // 20]
    sets = [{f[i : i + 5] for i in range(len(f) - 4)} for f in (form.ljust(5) for form in forms)]
    wanted = [len(sets[a] & sets[b]) / len(sets[a] | sets[b]) for a, b in pairs]
    assert similarities(pairs, lambda rows: [forms[i] for i in rows]).tolist() == wanted


def test_a_sketch_does_not_depend_on_the_rows_beside_it() -> None:
    forms = odd_forms(50)
    whole = sketch(forms, 0.8)
    assert whole.shape == (len(forms), COLUMNS) and whole.dtype == np.uint32
    for i in (0, 7, len(forms) - 1):
        assert np.array_equal(sketch([forms[i]], 0.8)[0], whole[i])


def test_bands_miss_almost_nothing_at_any_threshold() -> None:
    for threshold in (0.35, 0.5, 0.65, 0.8, 0.9, 1.0):
        rows = rows_of_a_band(threshold)
        assert 1 <= rows <= 16 and (1 - threshold**rows) ** BANDS < 1e-4
    assert rows_of_a_band(0.8) == 7


@pytest.mark.parametrize(("threshold", "grams"), [(0.5, 100), (0.8, 25), (0.8, 700), (0.95, 120)])
def test_pairs_just_at_the_threshold_are_candidates(threshold: float, grams: int) -> None:
    """Texts i and i + 3000 are as alike as the threshold, hardly more; their union has about `grams` 5-grams."""
    rng, count = np.random.default_rng(0), 3000
    own = max(1, round(grams * (1 - threshold) / 2))
    shared = int(np.ceil(threshold * 2 * own / (1 - threshold) - 1e-9))
    head = LETTERS[rng.integers(0, 36, (count, shared + 4))]
    tails = [LETTERS[rng.integers(0, 36, (count, own))] for _ in range(2)]
    forms = [bytes(row).decode() for tail in tails for row in np.concatenate([head, tail], 1)]
    planted = np.stack([np.arange(count), np.arange(count) + count], 1)
    alike = similarities(planted, lambda rows: [forms[i] for i in rows])
    planted = planted[alike >= threshold - 1e-9]  # a chance repeat in a text may take one below
    assert len(planted) > 2500 and alike.mean() < threshold + 0.03
    found = set(map(tuple, candidate_pairs(sketch(forms, threshold), threshold).tolist()))
    assert sum((a, b) in found for a, b in planted.tolist()) >= 0.998 * len(planted)
    assert len(found) < 1.2 * len(planted)


def test_kernels_are_compiled_without_a_cache_where_no_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def njit(cache: bool = False, **options: Any) -> Any:
        told.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(kernels.numba, "njit", njit)
    assert kernels._compiled(len) is len and told == [True, False]
