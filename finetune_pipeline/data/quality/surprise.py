"""How unexpected a text is to a model of word pairs trained on all other clusters: hard items of tasks with free text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune_pipeline.data.quality.grams import word_grams
from finetune_pipeline.data.quality.sample import hash_order
from finetune_pipeline.data.shingles import loose_form

FOLDS = 5
FEWEST_WORDS = 4


def surprise(texts: Sequence[str], clusters: Sequence[str]) -> np.ndarray:
    """Bits per word of each text; NaN below four words.

    Bigrams interpolated with add-one unigrams by the weights of Witten and Bell (1991), P(w|v) = (c(v,w) + T(v) P(w)) /
    (c(v) + T(v)) with T(v) the distinct words seen after v; counts are those of the other four fifths of the clusters.
    """
    words = word_grams([loose_form(text) for text in texts])
    names, ids = np.unique(words.hashes, return_inverse=True)
    rows, size = words.rows, len(names)
    bits = np.full(len(texts), np.nan)
    if not len(ids):
        return bits
    follows = np.flatnonzero(rows[1:] == rows[:-1]) + 1
    pairs, pair_ids = np.unique(ids[follows - 1] * size + ids[follows], return_inverse=True)
    first = pairs // size
    fold_of = {cluster: hash_order(cluster, "surprise") % FOLDS for cluster in set(clusters)}
    fold = np.array([fold_of[cluster] for cluster in clusters])
    all_words, all_pairs = np.bincount(ids, minlength=size), np.bincount(pair_ids, minlength=len(pairs))
    total = np.zeros(len(texts))
    for number in np.unique(fold):
        word_held, pair_held = fold[rows] == number, fold[rows[follows]] == number
        seen_words = all_words - np.bincount(ids[word_held], minlength=size)
        seen_pairs = all_pairs - np.bincount(pair_ids[pair_held], minlength=len(pairs))
        alone = (seen_words + 1) / (seen_words.sum() + size + 1)
        before = np.bincount(first, weights=seen_pairs, minlength=size)
        kinds = np.bincount(first[seen_pairs > 0], minlength=size)
        at, v, w = pair_ids[pair_held], ids[follows[pair_held] - 1], ids[follows[pair_held]]
        weight = np.maximum(before[v] + kinds[v], 1e-9)
        chance = np.where(before[v] > 0, (seen_pairs[at] + kinds[v] * alone[w]) / weight, alone[w])
        total += np.bincount(rows[follows[pair_held]], weights=-np.log2(chance), minlength=len(texts))
    counts = np.diff(words.offsets)
    enough = counts >= FEWEST_WORDS
    bits[enough] = total[enough] / (counts[enough] - 1)
    return bits
