"""Hashes of all runs of words or characters of many texts at once, without a Python loop over words.

Karp-Rabin hashing (Karp and Rabin 1987) modulo 2^64: with the prefix sums S[i] = Σ byte[j]·B^j, the bytes from a to b have
the hash (S[b] - S[a])·B^-a, whatever stands in front of them. A finaliser spreads the weak low bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_BASE = 0x9E3779B97F4A7C15 | 1
_INVERSE = pow(_BASE, -1, 1 << 64)
_BLOCK_BYTES = 1 << 20
_SPACE, _BREAK = 0x20, 0x0A


@dataclass(frozen=True)
class Grams:
    """`hashes` (uint64) of the grams of all texts in order; text i has those from ``offsets[i]`` to ``offsets[i + 1]``."""

    hashes: np.ndarray
    offsets: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The text's index of every gram."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def _powers(base: int, count: int) -> np.ndarray:
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.cumprod(powers, dtype=np.uint64)


class _Table:
    """Powers of the base and of its inverse, long enough for the longest block seen."""

    def __init__(self) -> None:
        self.up = self.down = np.ones(0, np.uint64)

    def grow(self, count: int) -> None:
        if len(self.up) < count:
            self.up, self.down = _powers(_BASE, count), _powers(_INVERSE, count)


_TABLE = _Table()


def spread(hashes: np.ndarray) -> np.ndarray:
    """Murmur3's 64-bit finaliser, in place."""
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def _hash_runs(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    _TABLE.grow(len(codes) + 1)
    sums = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * _TABLE.up[: len(codes)], out=sums[1:])
    return spread((sums[ends] - sums[starts]) * _TABLE.down[starts])


def _blocks(texts: Sequence[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= _BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _joined(found: list[Grams]) -> Grams:
    if not found:
        return Grams(np.zeros(0, np.uint64), np.zeros(1, np.int64))
    counts = np.concatenate([np.diff(g.offsets) for g in found])
    return Grams(np.concatenate([g.hashes for g in found]), np.concatenate(([0], np.cumsum(counts))).astype(np.int64))


def word_grams(forms: Sequence[str], size: int = 1) -> Grams:
    """All runs of `size` words of normal forms (see shingles: words parted by single blanks, no line breaks).

    A text of fewer words has no gram. Equal runs have equal hashes; unequal ones differ but for 64-bit chance.
    """
    return _joined([_block_of_words(block, size) for block in _blocks(forms)])


def _block_of_words(block: list[str], size: int) -> Grams:
    codes = np.frombuffer("\n".join(block).encode("utf-8", "surrogatepass"), np.uint8)
    breaks = codes == _BREAK
    gaps = np.flatnonzero(breaks | (codes == _SPACE))
    starts = np.concatenate(([0], gaps + 1))
    ends = np.concatenate((gaps, [len(codes)]))
    # the text of word i: how many breaks stand before it
    rows = np.concatenate(([0], np.cumsum(breaks[gaps])))
    word = ends > starts
    starts, ends, rows = starts[word], ends[word], rows[word]
    if len(starts) < size:
        return Grams(np.zeros(0, np.uint64), np.zeros(len(block) + 1, np.int64))
    last = len(starts) - size + 1
    inside = rows[:last] == rows[size - 1 :]
    hashes = _hash_runs(codes, starts[:last][inside], ends[size - 1 :][inside])
    counts = np.bincount(rows[:last][inside], minlength=len(block))
    return Grams(hashes, np.concatenate(([0], np.cumsum(counts))).astype(np.int64))


def char_grams(forms: Sequence[str], size: int) -> Grams:
    """All runs of `size` characters of texts, a blank before and behind each; shorter texts have one gram, themselves."""
    return _joined([_block_of_chars(block, size) for block in _blocks(forms)])


def _block_of_chars(block: list[str], size: int) -> Grams:
    padded = [f" {form} ".ljust(size) for form in block]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32)
    counts = np.array([len(p) - size + 1 for p in padded])
    begins = np.concatenate(([0], np.cumsum(counts + size - 1)[:-1]))
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    starts = np.arange(offsets[-1]) + np.repeat(begins - offsets[:-1], counts)
    return Grams(_hash_runs(codes, starts, starts + size), offsets)
