"""Clusters of near-duplicate texts: MinHash finds candidates, their true Jaccard similarity decides.

MinHash with banding (Broder 1997; Leskovec et al., Mining of Massive Datasets, ch. 3): two texts of similarity s share
one of b bands of r rows with probability 1 - (1 - s^r)^b.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune_pipeline.data.shingles import incidence, loose_form, shingle_sets, window_hashes

_HASHES = 252
_CHUNK = 4096
_PAIR_CHUNK = 20_000
_SLACK = 0.15  # six standard errors of an estimate from 252 hashes: no true pair is lost to the cheap filter
_PAIRS_PER_BAND = 4_000_000


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows): the widest bands that miss a pair exactly at the threshold less than once in 100,000.

    21 bands of 6 miss one in 600 at 0.8. Since the leakage check compares all pairs and stops the pipeline, a missed
    pair here would be a dead end there; twice the bands cost little.
    """
    for rows in (6, 5, 4, 3, 2):
        bands = _HASHES // rows
        if (1 - threshold**rows) ** bands < 1e-5:
            return bands, rows
    return _HASHES, 1


def near_duplicate_clusters(texts: Sequence[str], threshold: float) -> np.ndarray:
    """Cluster number (int64, shape [n]) of every text: connected components of pairs with similarity ≥ threshold."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    forms = [loose_form(t) for t in texts]
    index: dict[str, int] = {}
    member = np.array([index.setdefault(f, len(index)) for f in forms], np.int64)
    distinct = list(index)
    n = len(distinct)
    if n == 0:
        return member
    pairs = verified_pairs(distinct, candidate_pairs(distinct, threshold), threshold)
    graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), (n, n))
    labels: np.ndarray = connected_components(graph, directed=False)[1].astype(np.int64)
    return labels[member]


def signatures(forms: Sequence[str]) -> np.ndarray:
    """MinHash signatures, uint32 of shape [n, 252]."""
    from rensa import RMinHash

    made = np.empty((len(forms), _HASHES), np.uint32)
    for start in range(0, len(forms), _CHUNK):
        hashes, offsets = window_hashes(forms[start : start + _CHUNK])
        digest = RMinHash.digest_matrix_from_flat_token_hashes(
            hashes, offsets.astype(np.uint64), num_perm=_HASHES, seed=42
        )
        made[start : start + _CHUNK] = np.asarray(digest.to_rows(), np.uint32)
    return made


def candidate_pairs(forms: Sequence[str], threshold: float) -> np.ndarray:
    """Pairs (int64, shape [m, 2], i < j) that share a band and whose signatures agree nearly as often as asked.

    In a bucket too large for all pairs (a template with very many rows) only neighbours are paired: the clusters are
    connected through them.
    """
    bands, rows = bands_for(threshold)
    signed = signatures(forms)
    n = len(forms)
    reach = max(64, min(n, _PAIRS_PER_BAND // max(1, n)))
    found = np.zeros(0, np.int64)
    for band in range(bands):
        keys = np.zeros(n, np.uint64)
        for j in range(rows):
            keys = (keys ^ signed[:, band * rows + j]) * np.uint64(0xFF51AFD7ED558CCD)
            keys ^= keys >> np.uint64(32)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        fresh = [found]
        left, distance = np.flatnonzero(ordered[1:] == ordered[:-1]), 1
        while len(left) and distance <= reach:
            a, b = order[left], order[left + distance]
            fresh.append((np.minimum(a, b) << 32) | np.maximum(a, b))
            distance += 1
            left = left[left + distance < n]
            left = left[ordered[left] == ordered[left + distance]]
        found = np.unique(np.concatenate(fresh))
    pairs = np.stack([found >> 32, found & 0xFFFFFFFF], 1)
    likely = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), 10 * _PAIR_CHUNK):
        part = pairs[start : start + 10 * _PAIR_CHUNK]
        agree = np.zeros(len(part), np.int32)
        for column in signed.T:
            agree += column[part[:, 0]] == column[part[:, 1]]
        likely.append(part[agree / _HASHES >= threshold - _SLACK])
    return np.concatenate(likely)


def verified_pairs(forms: Sequence[str], pairs: np.ndarray, threshold: float) -> np.ndarray:
    """Those of the pairs whose true Jaccard similarity reaches the threshold."""
    kept = [np.zeros((0, 2), np.int64)]
    for start in range(0, len(pairs), _PAIR_CHUNK):
        part = pairs[start : start + _PAIR_CHUNK]
        rows, places = np.unique(part, return_inverse=True)
        places = places.reshape(part.shape)
        sets = shingle_sets([forms[i] for i in rows])
        sizes = np.array([len(s) for s in sets])
        matrix = incidence(sets, np.unique(np.concatenate(sets)))
        a, b = places[:, 0], places[:, 1]
        both = np.asarray(matrix[a].multiply(matrix[b]).sum(axis=1)).ravel()
        kept.append(part[both / (sizes[a] + sizes[b] - both) >= threshold - 1e-9])
    return np.concatenate(kept)
