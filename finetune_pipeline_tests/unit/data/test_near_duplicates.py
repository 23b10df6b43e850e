from __future__ import annotations

import random
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune_pipeline.data.dedup.boilerplate import Templates
from finetune_pipeline.data.dedup.near_duplicates import components, near_duplicate_clusters, near_duplicate_pairs
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


def test_templates_are_left_out() -> None:
    preamble = "You are a careful assistant of a bank. Answer the following question in one short sentence.\n"
    texts = [
        preamble + t for t in ("Where is the branch?", "How do I pay a bill?", "how do I pay a bill", "My card is gone")
    ]
    assert len(set(near_duplicate_clusters(texts, 0.7).tolist())) < 3
    pairs, likeness = near_duplicate_pairs(texts, 0.7, Templates((preamble,)))
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


def test_numba_is_loaded_for_large_inputs_only() -> None:
    code = """
import sys
from finetune_pipeline.data import near_duplicates
texts = [f"row {i} says {i * i} and then {i % 7}" for i in range(300)]
few = near_duplicates.near_duplicate_clusters(texts, 0.6)
assert "numba" not in sys.modules, "loaded for 300 rows"
import finetune_pipeline.data.kernels
assert "numba" in sys.modules and (near_duplicates.near_duplicate_clusters(texts, 0.6) == few).all()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
