"""Normal forms of text and sets of character 5-grams: the one measure of likeness used everywhere.

Jaccard similarity: |A ∩ B| / |A ∪ B| of the two sets of 5-grams (Jaccard 1912; Broder 1997 for shingles).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from finetune_pipeline.data.examples import Example

SIZE = 5
_KEPT_MARKS = set("#%&@*/\\")


def keeps(char: str) -> bool:
    """Whether a character stays in the loose form: letters, digits, symbols, marks and ``# % & @ * / \\``."""
    return unicodedata.category(char)[0] in "LMNS" or char in _KEPT_MARKS


class _Loose(dict[int, int | str]):
    """A table for str.translate: what `keeps` says stays, the rest becomes a blank."""

    def __missing__(self, code: int) -> int | str:
        self[code] = code if keeps(chr(code)) else " "
        return self[code]


_LOOSE = _Loose()


def exact_form(text: str) -> str:
    """Compatibility-composed, case folded, blanks collapsed. Digits, punctuation and symbols stay as they are."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def loose_form(text: str) -> str:
    """The exact form without punctuation (`c++`, `c#` and `95%` still differ); the exact form where nothing is left."""
    exact = exact_form(text)
    return " ".join(exact.translate(_LOOSE).split()) or exact


def text_key(text: str) -> str:
    """32 hex digits of the SHA-256 of a text's exact form."""
    return hashlib.sha256(exact_form(text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def prompt_key(example: Example) -> str:
    """Name of what an example's user says, whatever its answer and its system prompt are."""
    return text_key(example.user_text)


def window_hashes(forms: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hashes uint64, offsets int64): row i's 5-grams, repeats kept, are ``hashes[offsets[i]:offsets[i + 1]]``.

    A row shorter than five characters is padded with blanks and has one 5-gram.
    """
    padded = [f.ljust(SIZE) for f in forms]
    offsets = np.zeros(len(padded) + 1, np.int64)
    np.cumsum([len(p) - SIZE + 1 for p in padded], out=offsets[1:])
    if not padded:
        return np.zeros(0, np.uint64), offsets
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    count = len(codes) - SIZE + 1
    hashes = np.zeros(count, np.uint64)
    for j in range(SIZE):
        hashes = (hashes ^ codes[j : j + count]) * np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(32)
    inside = np.ones(count, bool)
    ends = np.cumsum([len(p) for p in padded])[:-1]
    for j in range(1, SIZE):  # windows that reach into the next row
        inside[ends - j] = False
    return hashes[inside], offsets


def shingle_sets(forms: Sequence[str]) -> list[np.ndarray]:
    """Sorted distinct 32-bit hashes (uint32) of each form's 5-grams."""
    hashes, offsets = window_hashes(forms)
    short = (hashes >> np.uint64(32)).astype(np.uint32)
    return [np.unique(short[a:b]) for a, b in pairwise(offsets)]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard similarity of two sorted distinct arrays."""
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def similarity(text_a: str, text_b: str) -> float:
    """Jaccard similarity of two texts."""
    a, b = shingle_sets([loose_form(text_a), loose_form(text_b)])
    return jaccard(a, b)


def incidence(sets: Sequence[np.ndarray], columns: np.ndarray) -> Any:
    """Sparse 0/1 matrix (int32, CSR): rows are sets, columns the sorted hashes in `columns`; others are left out."""
    from scipy.sparse import csr_matrix

    lengths = [len(s) for s in sets]
    flat = np.concatenate([np.zeros(0, np.uint32), *sets])
    rows = np.repeat(np.arange(len(sets)), lengths)
    at = np.searchsorted(columns, flat)
    at[at == len(columns)] = 0
    known = columns[at] == flat if len(columns) else np.zeros(len(flat), bool)
    ones = np.ones(int(known.sum()), np.int32)
    return csr_matrix((ones, (rows[known], at[known])), shape=(len(sets), max(1, len(columns))))
