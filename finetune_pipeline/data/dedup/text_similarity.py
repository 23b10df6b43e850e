"""Normal forms of text, and the Jaccard similarity of sets of character 5-grams: the measure of likeness used everywhere.

Jaccard similarity: |A ∩ B| / |A ∪ B| of the two sets (Jaccard 1912; Broder 1997 for shingles).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any
from zlib import crc32

import numpy as np

from finetune_pipeline.data.invisible import visible_text

SIZE = 5
NEAR_ENOUGH = 1e-9
"""What rounding may take off a similarity."""
_KEPT_MARKS = set("#%&@*/\\")
_ROWS_AT_ONCE = 512


def keeps(char: str) -> bool:
    """Whether a character stays in the loose form: letters, digits, symbols, marks and ``# % & @ * / \\``."""
    return unicodedata.category(char)[0] in "LMNS" or char in _KEPT_MARKS


class _Loose(dict[int, int | str]):
    """A table for str.translate: what `keeps` says stays, the rest becomes a blank."""

    def __missing__(self, code: int) -> int | str:
        self[code] = code if keeps(chr(code)) else " "
        return self[code]


_LOOSE = _Loose()
_LOOSE_ASCII = bytes(code if keeps(chr(code)) else 32 for code in range(128)).ljust(256)
"""The same for bytes.translate, which takes a tenth of the time."""


def exact_form(text: str) -> str:
    """Compatibility-composed, case folded, blanks collapsed, nothing invisible. Digits, punctuation and symbols stay."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", visible_text(text))
    return " ".join(plain.casefold().split())


def loose_form(text: str) -> str:
    """The exact form without punctuation (`c++`, `c#` and `95%` still differ); the exact form where nothing is left."""
    exact = exact_form(text)
    kept = exact.encode().translate(_LOOSE_ASCII).decode() if exact.isascii() else exact.translate(_LOOSE)
    return " ".join(kept.split()) or exact


def text_key(text: str) -> str:
    """32 hex digits of the SHA-256 of a text's exact form."""
    return hashlib.sha256(exact_form(text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def grams(form: str) -> set[str]:
    """The 5-grams of a text; a shorter text is padded with blanks and has one."""
    padded = form.ljust(SIZE)
    return {padded[i : i + SIZE] for i in range(len(padded) - SIZE + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    """Jaccard similarity of two sets."""
    return len(a & b) / len(a | b)


def similarity(text_a: str, text_b: str) -> float:
    """Jaccard similarity of two texts."""
    return jaccard(grams(loose_form(text_a)), grams(loose_form(text_b)))


def shingle_sets(forms: Sequence[str]) -> list[np.ndarray]:
    """Sorted distinct 32-bit hashes (uint32) of each form's 5-grams: enough to compare texts, without the texts."""
    hashed = ((crc32(gram.encode("utf-8", "surrogatepass")) for gram in grams(form)) for form in forms)
    return [np.unique(np.fromiter(hashes, np.uint32)) for hashes in hashed]


def similar_pairs(
    sets: Sequence[np.ndarray], others: Sequence[np.ndarray], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """(i, j, similarity) of every pair of a set and another at the threshold or above; all pairs are compared."""
    if not len(sets) or not len(others):
        return
    columns = np.unique(np.concatenate(others))
    sizes = np.array([len(s) for s in others])
    against = _incidence(others, columns).T.tocsr()
    for start in range(0, len(sets), _ROWS_AT_ONCE):
        part = sets[start : start + _ROWS_AT_ONCE]
        both = (_incidence(part, columns) @ against).tocoo()
        likeness = both.data / (np.array([len(s) for s in part])[both.row] + sizes[both.col] - both.data)
        for k in np.flatnonzero(likeness >= threshold - NEAR_ENOUGH):
            yield start + int(both.row[k]), int(both.col[k]), float(likeness[k])


def _incidence(sets: Sequence[np.ndarray], columns: np.ndarray) -> Any:
    """Sparse 0/1 matrix (int32, CSR): rows are sets, columns the sorted hashes in `columns`; others are left out."""
    from scipy.sparse import csr_matrix

    flat = np.concatenate(sets)
    rows = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    at = np.searchsorted(columns, flat)
    at[at == len(columns)] = 0
    known = columns[at] == flat
    ones = np.ones(int(known.sum()), np.int32)
    return csr_matrix((ones, (rows[known], at[known])), shape=(len(sets), len(columns)))


def near_any(texts: Sequence[str], others: Iterable[str], threshold: float) -> list[bool]:
    """For each text whether its similarity with any of `others` reaches the threshold.

    Every pair is compared; memory grows with `texts` alone, time with both.
    """
    sets = shingle_sets([loose_form(text) for text in texts])
    near = [False] * len(texts)
    rest = iter(others)
    while some := list(islice(rest, 2048)):
        for _, i, _ in similar_pairs(shingle_sets([loose_form(text) for text in some]), sets, threshold):
            near[i] = True
    return near
