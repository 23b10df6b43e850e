"""From texts to loose forms, sketches (MinHash band keys) and exact Jaccard similarities, a million rows at a time.

One hash per 5-gram: the top 8 bits choose one of 256 bins, a bin keeps its smallest hash (one-permutation hashing, Li,
Owen and Zhang 2012). A second round of hashes fills the bins left empty (Dahlgaard, Knudsen and Thorup 2017), the rest
borrow from another bin (densification, Shrivastava 2017). In each bin two texts agree with a probability of their
Jaccard similarity. Every seven (at threshold 0.8) bins make a band key: two texts of similarity s share one of b keys
of r bins with probability 1 - (1 - s^r)^b (Leskovec et al., Mining of Massive Datasets, ch. 3). One bit of every bin is
kept too: the share of equal bits estimates (1 + s) / 2 (Li and König 2010).

Small inputs are worked on in numpy, large ones by :mod:`finetune_pipeline.data.kernels`, with the same result.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from finetune_pipeline.data.buckets import BANDS, BINS, COLUMNS, candidate_pairs
from finetune_pipeline.data.shingles import SIZE, exact_form, jaccard, keeps, loose_form, window_hashes
from finetune_pipeline.data.templates import Templates, stripper

__all__ = ["Forms", "bands_for", "candidate_pairs", "loose_forms", "row_keys", "similarities", "sketch"]

_ROUNDS = np.array([0x2C1B3C6D, 0x297A2D39], np.uint32)
_SMALL = 500_000  # characters; below, loading the kernels takes longer than the work
_CHUNK = 1024  # texts folded at once: they stay in the processor's cache
_64 = 2**64 - 1
KERNELS = "finetune_pipeline.data.kernels"
_EMPTY = np.uint32(0xFFFFFFFF)


@dataclass
class Forms:
    """Loose forms of n texts: row i is ``codes[offsets[i]:offsets[i + 1]]``, UTF-8 (uint8; surrogates allowed).

    `offsets` is int64 of shape [n + 1].
    """

    codes: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, row: int) -> str:
        """The loose form of one row."""
        return bytes(self.codes[self.offsets[row] : self.offsets[row + 1]]).decode("utf-8", "surrogatepass")


def bands_for(threshold: float) -> tuple[int, int]:
    """(bands, rows): the widest of 40 bands that miss a pair exactly at the threshold less than once in 10,000."""
    rows = 1
    while rows < 16 and (1 - threshold ** (rows + 1)) ** BANDS < 1e-4:
        rows += 1
    return BANDS, rows


def loose_forms(texts: Sequence[str], templates: Templates | None = None) -> Forms:
    """Loose forms (``shingles.loose_form``) of texts, `templates` taken off first."""
    strip = stripper(templates) if templates is not None and templates.segments else None
    fast = kernels_for(sum(map(len, texts))) is not None
    codes, lengths = [np.zeros(0, np.uint8)], [np.zeros(1, np.int64)]
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        if strip is not None:
            part = [strip(t) for t in part]
        made = _folded(part) if fast else _by_hand(part)
        codes.append(made.codes)
        lengths.append(np.diff(made.offsets))
    return Forms(np.concatenate(codes), np.cumsum(np.concatenate(lengths)))


def sketch(forms: Forms, threshold: float) -> np.ndarray:
    """uint32 of shape [n, 48]: 40 band keys, then 256 bits of signature.

    Sketches can be compared where they were made for the same threshold, whenever that was.
    """
    bins, donors = _bins(bands_for(threshold)[1]), _donors()
    out = np.empty((len(forms), COLUMNS), np.uint32)
    kernels = kernels_for(len(forms.codes))
    if kernels is not None:
        kernels.sketch_rows(forms.codes, forms.offsets, _ROUNDS, bins, donors, out)
        return out
    for start in range(0, len(forms), 256):
        out[start : start + 256] = _sketch_rows(_part(forms, start, start + 256), bins, donors)
    return out


def similarities(forms: Forms, pairs: np.ndarray) -> np.ndarray:
    """Jaccard similarity (float64, [m]) of the 5-gram sets of each pair of rows (int64, [m, 2])."""
    out = np.ones(len(pairs), np.float64)
    if not len(pairs):
        return out
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    left, right = np.ascontiguousarray(pairs[order, 0]), np.ascontiguousarray(pairs[order, 1])
    kernels = kernels_for(int((forms.offsets[right + 1] - forms.offsets[right]).sum()))
    if kernels is None:
        out[order] = _jaccard_pairs(forms, left, right)
        return out
    found = np.empty(len(pairs), np.float64)
    kernels.jaccard_pairs(forms.codes, forms.offsets, left, right, found)
    out[order] = found
    return out


def row_keys(forms: Forms) -> np.ndarray:
    """A 64-bit hash (uint64, [n]) of every loose form. Not a cryptographic one: verify what looks equal."""
    kernels = kernels_for(len(forms.codes))
    keys = np.empty(len(forms), np.uint64)
    if kernels is not None:
        kernels.row_keys(forms.codes, forms.offsets, keys)
        return keys
    for row, (start, end) in enumerate(pairwise(forms.offsets.tolist())):
        keys[row] = _row_key(bytes(forms.codes[start:end]))
    return keys


def kernels_for(characters: int) -> Any:
    """The compiled kernels, where they are loaded already or the work is worth it; else None."""
    if characters < _SMALL and KERNELS not in sys.modules:
        return None
    return import_module(KERNELS)


@cache
def _ascii_form() -> np.ndarray:
    """What loose_form makes of every ASCII character (uint8, [256]); 32 for a blank."""
    form = np.full(256, 32, np.uint8)
    form[:128] = [ord(loose_form(f"a{chr(c)}a")[1:-1]) for c in range(128)]
    return form


@cache
def _kept() -> np.ndarray:
    """One uint8 per code point, filled as characters turn up: 0 unknown, 1 kept by the loose form, 2 made a blank."""
    return np.zeros(0x110000, np.uint8)


def _by_hand(texts: Sequence[str]) -> Forms:
    """Loose forms, one text at a time."""
    encoded = [loose_form(t).encode("utf-8", "surrogatepass") for t in texts]
    return _joined(encoded)


def _joined(encoded: Sequence[bytes]) -> Forms:
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(e) for e in encoded], out=offsets[1:])
    return Forms(np.frombuffer(b"".join(encoded), np.uint8), offsets)


def _folded(texts: Sequence[str]) -> Forms:
    """Loose forms, many texts at once: compatibility composition and case folding look at more than one character and
    are left to Python; the rest is a table look-up."""
    kernels = import_module(KERNELS)
    joined = "".join(texts)
    if joined.isascii():
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(t) for t in texts], out=offsets[1:])
        raw = Forms(np.frombuffer(joined.encode(), np.uint8), offsets)
    else:
        del joined
        plain = [t if t.isascii() else unicodedata.normalize("NFKC", t).casefold() for t in texts]
        _learn("".join(t for t in plain if not t.isascii()))
        raw = _joined([t.encode("utf-8", "surrogatepass") for t in plain])
    out, ends = np.empty(len(raw.codes), np.uint8), np.empty(len(texts) + 1, np.int64)
    used = kernels.fold(raw.codes, raw.offsets, _ascii_form(), _kept(), out, ends)
    forms = Forms(out[:used], ends)
    nothing = np.flatnonzero(np.diff(ends) == 0)
    if not len(nothing):
        return forms
    rows = [bytes(out[a:b]) for a, b in pairwise(ends)]
    for i in nothing:
        rows[i] = exact_form(texts[int(i)]).encode("utf-8", "surrogatepass")
    return _joined(rows)


def _learn(text: str) -> None:
    """Look up the characters of a text that have not turned up before."""
    kept = _kept()
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    for point in np.unique(points[kept[points] == 0]):
        kept[point] = 1 if keeps(chr(point)) else 2


def _part(forms: Forms, start: int, end: int) -> Forms:
    offsets = forms.offsets[start : end + 1]
    return Forms(forms.codes[offsets[0] : offsets[-1]], offsets - offsets[0])


def _sketch_rows(forms: Forms, bins: np.ndarray, donors: np.ndarray) -> np.ndarray:
    """The sketches of a few hundred rows, in numpy: the definition of ``kernels.sketch_rows``."""
    n = len(forms)
    points = [
        np.frombuffer(forms.text(i).ljust(SIZE).encode("utf-32-le", "surrogatepass"), np.uint32) for i in range(n)
    ]
    hashes = [base_hashes(p) for p in points]
    flat = np.concatenate([np.zeros(0, np.uint32), *hashes])
    row = np.repeat(np.arange(n), [len(h) for h in hashes])
    smallest = np.full((n, BINS), _EMPTY, np.uint32)
    for turn, multiplier in enumerate(_ROUNDS):
        open_rows = (smallest == _EMPTY).any(axis=1)[row]
        x = flat[open_rows] * multiplier
        x ^= x >> np.uint32(15)
        value = np.uint32(turn << 24) | (x & np.uint32(0xFFFFFF))
        np.minimum.at(smallest, (row[open_rows], x >> np.uint32(24)), value)
    filled = smallest.copy()
    for distance in donors:
        vacant = np.flatnonzero(smallest.ravel() == _EMPTY)
        if not len(vacant):
            break
        at, place = np.divmod(vacant, BINS)
        smallest[at, place] = filled[at, (place + distance) % BINS]
    out = np.empty((n, COLUMNS), np.uint32)
    key = np.broadcast_to(np.arange(BANDS, dtype=np.uint32), (n, BANDS))
    for chosen in bins:
        key = (key ^ smallest[:, chosen]) * np.uint32(0x9E3779B1)
        key ^= key >> np.uint32(15)
    out[:, :BANDS] = key * np.uint32(0x846CA68B)
    bits = np.packbits((smallest & np.uint32(1)).astype(np.uint8), axis=1, bitorder="little")
    out[:, BANDS:] = bits.view("<u4")
    return out


def _jaccard_pairs(forms: Forms, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Similarities of few pairs, in numpy: the definition of ``kernels.jaccard_pairs``."""
    rows = np.unique(np.concatenate([left, right]))
    hashes, offsets = window_hashes([forms.text(i) for i in rows])
    sets = {int(r): np.unique(hashes[a:b]) for r, a, b in zip(rows, offsets[:-1], offsets[1:], strict=True)}
    return np.array([jaccard(sets[int(a)], sets[int(b)]) for a, b in zip(left, right, strict=True)], np.float64)


def _row_key(row: bytes) -> int:
    """The definition of ``kernels.row_keys``."""
    key = len(row) * 0xC4CEB9FE1A85EC53 & _64
    for i in range(0, len(row), 8):
        key = (key ^ int.from_bytes(row[i : i + 8], "little")) * 0x9E3779B97F4A7C15 & _64
        key ^= key >> 32
    key = (key ^ key >> 29) * 0xBF58476D1CE4E5B9 & _64
    return key ^ key >> 32


def base_hashes(points: np.ndarray) -> np.ndarray:
    """32-bit hashes (uint32) of the 5-grams of code points (uint32, at least five)."""
    m = np.where(points < 0x80, points, _mix(points))
    n = len(m) - SIZE + 1
    low = m[:n].copy()
    for j in (1, 2, 3):
        word = m[j : j + n]
        low ^= (word << np.uint32(8 * j)) | (word >> np.uint32(32 - 8 * j))
    h = (low * np.uint32(0x9E3779B1)) ^ (m[4 : 4 + n] * np.uint32(0x85EBCA6B))
    return _mix(h ^ (h >> np.uint32(16)))


def _mix(h: np.ndarray) -> np.ndarray:
    h = h * np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    mixed: np.ndarray = h ^ (h >> np.uint32(16))
    return mixed


def _bins(rows: int) -> np.ndarray:
    """Which bins a band joins (uint8, [rows, bands]): all 256 in turn, then again in another order."""
    place = np.arange(BANDS * rows)
    cycle = place // BINS
    return ((place * (74 * cycle + 1) + 11 * cycle) % BINS).astype(np.uint8).reshape(rows, BANDS)


def _donors() -> np.ndarray:
    """In which order an empty bin looks at the others: distances (int64, [255]), each once."""
    seen: list[int] = []
    at = 1
    while len(seen) < BINS - 1:
        at = (at * 165 + 91) % BINS
        if at:
            seen.append(at)
    return np.array(seen, np.int64)
