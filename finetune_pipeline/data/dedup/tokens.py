"""The token set of a text: its words, three-letter parts of words, and pairs of words up to REACH words apart, as hashes. A typing
error, a missing or another word or another order changes few of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import WITHOUT_BLANKS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

REACH = 4
"""Pairs of words are tokens if they are at most this many words apart."""
_MOST = 128
"""Tokens kept of a text: those with the smallest hashes."""
_FEW = 20_000
"""Up to this many rows, tokens are hashed to 20 bits instead of 24."""
_WORDS = re.compile(f"{WITHOUT_BLANKS.pattern}|[^\\s{WITHOUT_BLANKS.pattern[1:-1]}]+")


def token_space(rows: int) -> int:
    """Return the number of different hashes of the tokens in a set of this many rows."""
    return 1 << (20 if rows <= _FEW else 24)


def token_sets(forms: Sequence[str], space: int) -> csr_matrix:
    """Return which tokens each text has (float32, [n, space], 1 or absent), at most _MOST of each. forms: loose forms."""
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        analyzer=_tokens, n_features=space, alternate_sign=False, norm=None, binary=True, dtype=np.float32
    )
    if not forms:
        return csr_matrix((0, space), dtype=np.float32)
    sets = vectorizer.transform(forms)
    sets.sort_indices()
    return first_of_rows(sets, np.full(sets.nnz, True), _MOST)


def first_of_rows(matrix: csr_matrix, mask: np.ndarray, most: int) -> csr_matrix:
    """Keep of each row's entries in the mask (bool, [entries]) the first `most`."""
    from scipy.sparse import csr_matrix

    before = np.append(0, np.cumsum(mask))
    place = before[1:] - np.repeat(before[matrix.indptr[:-1]], np.diff(matrix.indptr))
    kept = mask & (place <= most)
    starts = np.append(0, np.cumsum(kept))[matrix.indptr]
    return csr_matrix((matrix.data[kept], matrix.indices[kept], starts), matrix.shape)


def _tokens(form: str) -> list[str]:
    words = _WORDS.findall(form)
    tokens = list(words)
    for distance in range(1, REACH + 1):
        between = f" {distance} "
        tokens += map(between.join, zip(words, words[distance:], strict=False))
    for word in set(words):
        tokens += _parts_of_word(word)
    return tokens


@lru_cache(maxsize=100_000)
def _parts_of_word(word: str) -> list[str]:
    padded = f" {word} "
    return [f"#{padded[start : start + 3]}" for start in range(len(word))] if len(word) > 1 else []
