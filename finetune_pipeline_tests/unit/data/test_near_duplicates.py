from __future__ import annotations

import random
from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from finetune_pipeline.data.dedup.boilerplate import Boilerplate
from finetune_pipeline.data.dedup.near_duplicates import (
    candidate_pairs,
    loose_forms,
    near_duplicate_clusters,
    similarities,
    sketch,
    verified_pairs,
)
from finetune_pipeline.data.dedup.text_similarity import similarity

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


@pytest.mark.parametrize("threshold", [0.6, 0.8, 0.95])
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
    texts = [f"Hello, I am on the list and cannot log in to the portal since the update, no {i}" for i in range(3000)]
    pairs = candidate_pairs(sketch(loose_forms(texts), 0.8), 0.8)
    assert len(set(near_duplicate_clusters(texts, 0.8).tolist())) == 1 and len(pairs) < 30 * len(texts)


def test_boilerplate_is_left_out() -> None:
    preamble = "You are a careful assistant of a bank. Answer the following question in one short sentence.\n"
    asked = ("Where is the branch?", "How do I pay a bill?", "how do I pay a bill", "My card is gone")
    texts = [preamble + text for text in asked]
    assert len(set(near_duplicate_clusters(texts, 0.7).tolist())) < 3
    forms = loose_forms(texts, Boilerplate((preamble,)))
    pairs, likeness = verified_pairs(sketch(forms, 0.7), 0.7, lambda rows: [forms[i] for i in rows])
    assert pairs.tolist() == [[1, 2]] and likeness.tolist() == [1.0]


LETTERS = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz0123456789", np.uint8)


@pytest.mark.parametrize(("threshold", "grams"), [(0.5, 100), (0.8, 25), (0.95, 120)])
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
    hits = set(map(tuple, candidate_pairs(sketch(forms, threshold), threshold).tolist()))
    assert sum((a, b) in hits for a, b in planted.tolist()) >= 0.998 * len(planted)
    assert len(hits) < 1.2 * len(planted)
