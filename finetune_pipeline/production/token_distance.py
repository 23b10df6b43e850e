"""Computes the distance between the words of two sets of texts, and its p-value under equal distributions."""

import re
from collections.abc import Sequence

import numpy as np
import scipy

BUCKETS = 1 << 18
"""Number of columns that words are hashed into: no vocabulary is needed, and new words count from the start."""
_STOP_AFTER = 10
"""Number of permutations at least as far apart as observed after which sampling stops (Besag and Clifford)."""
_BATCH_DRAWS = 256


def words(text: str) -> list[str]:
    """Return the words of a text, without case."""
    return re.findall(r"\w+", text.casefold())


def word_vectors(texts: Sequence[Sequence[str]], weights: np.ndarray) -> scipy.sparse.csr_matrix:
    """Return one unit vector per text: which words occur, times `weights` (per bucket), shape (texts, BUCKETS)."""
    from sklearn.preprocessing import normalize

    return normalize(_occurrences(texts).multiply(weights).tocsr())


def rows_with(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Return the number of texts with a word of each bucket, shape (BUCKETS,)."""
    return np.bincount(_occurrences(texts).indices, minlength=BUCKETS)


def rarity(rows_with_it: np.ndarray, n: int) -> np.ndarray:
    """Return the inverse document frequency per bucket for n texts: log((n + 1) / (rows with it + 1)) + 1."""
    return np.asarray(np.log((n + 1) / (rows_with_it + 1)) + 1)


def _occurrences(texts: Sequence[Sequence[str]]) -> scipy.sparse.csr_matrix:
    """Return a matrix with a one for each word in each text."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed = HashingVectorizer(analyzer=_as_bytes, n_features=BUCKETS, binary=True, norm=None, alternate_sign=False)
    return hashed.transform(texts)


def _as_bytes(text: Sequence[str]) -> list[bytes]:
    return [word.encode("utf-8", "surrogatepass") for word in text]


def permutation_p(
    reference: scipy.sparse.csr_matrix, window: scipy.sparse.csr_matrix, smallest: float
) -> tuple[float, float]:
    """Return (distance, p) for the hypothesis that both sets of vectors have the same distribution.

    distance: squared length of the difference of the two means (maximum mean discrepancy with the cosine as kernel,
    Gretton et al. 2012). p: share of random exchanges of rows between the sets with at least this distance, (exceeding + 1) /
    (tried + 1), sequentially: after ten such exchanges, p is ten divided by the number tried (Besag and Clifford 1991). So
    similar sets need about a hundred exchanges, and only different sets need the many exchanges for a p below `smallest`.
    """
    n, m = reference.shape[0], window.shape[0]
    pooled = scipy.sparse.vstack([reference, window]).tocsr()
    kernel = (pooled @ pooled.T).toarray().astype(np.float32)
    signs = np.full(n + m, -1.0 / n, dtype=np.float32)
    signs[n:] = 1.0 / m
    observed = float(signs @ kernel @ signs)
    max_draws = int(np.ceil(1.5 / smallest))
    rng = np.random.default_rng(0)
    tried = exceeding = 0
    while tried < max_draws:
        drawn = rng.permuted(np.tile(signs, (min(_BATCH_DRAWS, max_draws - tried), 1)), axis=1)
        farther = np.einsum("ij,ij->i", drawn @ kernel, drawn) >= observed * (1 - 1e-6)
        hits = np.flatnonzero(farther)
        if exceeding + len(hits) >= _STOP_AFTER:
            return observed, _STOP_AFTER / (tried + int(hits[_STOP_AFTER - exceeding - 1]) + 1)
        exceeding += len(hits)
        tried += len(drawn)
    return observed, (exceeding + 1) / (tried + 1)


def moved_share(reference: scipy.sparse.csr_matrix, window: scipy.sparse.csr_matrix) -> float:
    """Return the share of the words' weight that moved from the reference, beyond chance: between 0 and 1. It is the total
    variation distance of the two mean vectors (as distributions), minus its mean over 20 random draws of a window's size
    from the reference itself."""

    def spread(rows: scipy.sparse.csr_matrix) -> np.ndarray:
        total: np.ndarray = np.asarray(rows.sum(axis=0)).ravel()
        shares: np.ndarray = total / max(total.sum(), 1e-12)
        return shares

    columns = np.unique(np.concatenate([reference.indices, window.indices]))
    a, b = reference[:, columns], window[:, columns]
    rng, m = np.random.default_rng(0), min(window.shape[0], reference.shape[0] // 2)
    if m == 0:
        return 0.0
    chance = []
    for _ in range(20):
        order = rng.permutation(a.shape[0])
        chance.append(np.abs(spread(a[order[:m]]) - spread(a[order[m:]])).sum() / 2)
    return float(np.clip(np.abs(spread(a) - spread(b)).sum() / 2 - np.mean(chance), 0.0, 1.0))
