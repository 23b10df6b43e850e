"""Finds rows that repeat an item of a benchmark: trained on, they would make its score measure memory.

Texts are compared in the exact form (see text_similarity). A row repeats an item when

- its prompt equals the item (``exact``), or
- runs of 13 words that both have cover at least half of the item's words (``overlap``; 13-grams as in Brown et al. 2020,
  appendix C). Runs that many items of the file share are its boilerplate: they prove nothing, and are counted neither as
  covered nor as words. An item with fewer than 13 words of its own is matched by equality alone.

Every match is verified on the words themselves; hashes only find candidates. One pass over the rows, microseconds each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.benchmark_items import Item, read_benchmark
from finetune_pipeline.data.dedup.grams import word_grams
from finetune_pipeline.data.dedup.text_similarity import exact_form
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quoting import row_finding
from finetune_pipeline.data.raw_files import BENCHMARKS
from finetune_pipeline.findings import Finding

SIZE = 13
COVERED = 0.5
MATCHES = "benchmark_matches.jsonl"
_FILTER_BITS = 24


@dataclass(frozen=True)
class Match:
    """One row that repeats a benchmark item; `covered`: share of the item's words, 1 for an exact match."""

    id: str
    place: str
    file: str
    line: int
    how: str
    covered: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "covered": round(self.covered, 4)}

    def finding(self) -> Finding:
        """Why the row is left out."""
        how = "its prompt is that item" if self.how == "exact" else f"it covers {self.covered:.0%} of that item"
        message = f"the row repeats an item of the benchmark {self.file} (line {self.line}): {how}"
        fix = "nothing to do; the row is left out, else the benchmark's score would measure memory"
        return row_finding("benchmark_contamination", self.place, message, fix)


@dataclass(frozen=True)
class Benchmarks:
    """The benchmark files below a folder. Small enough to be sent to other processes, which read the files themselves."""

    folder: Path
    names: tuple[str, ...]

    @property
    def index(self) -> BenchmarkIndex:
        """Their items."""
        return _index(self.folder, self.names)


@lru_cache(maxsize=2)
def _index(folder: Path, names: tuple[str, ...]) -> BenchmarkIndex:
    return BenchmarkIndex([item for name in names for item in read_benchmark(folder / name, name)])


def load_benchmarks(raw: Path | None) -> Benchmarks | None:
    """The benchmark files of a raw artifact; None where there are none. Raises FindingsError for unreadable ones."""
    folder = raw / BENCHMARKS if raw else None
    if folder is None or not folder.is_dir():
        return None
    names = tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
    benchmarks = Benchmarks(folder, names)
    assert benchmarks.index  # unreadable files are found now, not in a process of the pool
    return benchmarks


class BenchmarkIndex:
    """Benchmark items, ready to be looked up. Build once, use for any number of rows."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = list(items)
        forms = [exact_form(item.text) for item in self.items]
        self.exact: dict[str, int] = {}
        for number, form in enumerate(forms):
            self.exact.setdefault(form, number)
        self.words = [form.split(" ") for form in forms]
        grams = word_grams(forms, SIZE)
        owners = grams.rows
        places = np.arange(len(owners)) - grams.offsets[owners]
        common = self._boilerplate(grams.hashes, owners)
        self.shared = self._shared_words(owners[common], places[common])
        self.own_words = np.array([len(words) for words in self.words], np.int64)
        for number, mask in self.shared.items():
            self.own_words[number] -= int(mask.sum())
        kept = ~common & (self.own_words[owners] >= SIZE)
        order = np.argsort(grams.hashes[kept], kind="stable")
        self.hashes = grams.hashes[kept][order]
        self.owners, self.places = owners[kept][order], places[kept][order]
        self.filter = np.zeros(1 << _FILTER_BITS, bool)
        self.filter[self.hashes >> np.uint64(64 - _FILTER_BITS)] = True

    def _boilerplate(self, hashes: np.ndarray, owners: np.ndarray) -> np.ndarray:
        """Which grams stand in more than ten items of a file and in over 1% of them."""
        if not len(hashes):
            return np.zeros(0, bool)
        files = {name: i for i, name in enumerate(dict.fromkeys(item.file for item in self.items))}
        file_of = np.array([files[item.file] for item in self.items])
        sizes = np.bincount(file_of, minlength=len(files))
        _, ids = np.unique(hashes, return_inverse=True)
        # each gram once per item, then how often per file
        once = np.unique(ids.astype(np.int64) * len(self.items) + owners)
        key = (once // len(self.items)) * len(files) + file_of[once % len(self.items)]
        keys, counts = np.unique(key, return_counts=True)
        at = np.searchsorted(keys, ids.astype(np.int64) * len(files) + file_of[owners])
        return counts[at] > np.maximum(10, 0.01 * sizes[file_of[owners]])

    def _shared_words(self, owners: np.ndarray, places: np.ndarray) -> dict[int, np.ndarray]:
        """{item: which of its words boilerplate covers}, of the items that have any."""
        return {number: _mask(starts, len(self.words[number])) for number, starts in _by_owner(owners, places)}

    def _own_covered(self, number: int, starts: np.ndarray) -> int:
        """Words of the item's own that runs beginning at these places cover."""
        if number not in self.shared:
            return _covered(starts)
        return int((_mask(starts, len(self.words[number])) & ~self.shared[number]).sum())

    def find(self, examples: Sequence[Example]) -> dict[int, Match]:
        """The rows (by place) that repeat an item; of several items the best covered one is named."""
        prompts = [exact_form(e.user_text) for e in examples]
        answers = [
            exact_form("\n".join(m["content"] for m in e.messages if m["role"] == "assistant")) for e in examples
        ]
        exact = {row: self.exact[form] for row, form in enumerate(prompts) if form and form in self.exact}
        best = {row: (1.0, number) for row, number in exact.items()}
        for row, number, share in self._overlaps(prompts, answers):
            if row not in exact and share > best.get(row, (0.0, 0))[0]:
                best[row] = (share, number)
        matches = {}
        for row, (share, number) in sorted(best.items()):
            item, e = self.items[number], examples[row]
            how = "exact" if row in exact else "overlap"
            matches[row] = Match(e.id, e.place, item.file, item.line, how, share)
        return matches

    def _overlaps(self, prompts: Sequence[str], answers: Sequence[str]) -> Iterator[tuple[int, int, float]]:
        """(row, item, share of its words covered) of every pair that is covered enough, verified."""
        if not len(self.hashes):
            return
        grams = word_grams([*prompts, *answers], SIZE)
        passed = np.flatnonzero(self.filter[grams.hashes >> np.uint64(64 - _FILTER_BITS)])
        left = np.searchsorted(self.hashes, grams.hashes[passed])
        found = left < len(self.hashes)
        passed, left = passed[found], left[found]
        found = self.hashes[left] == grams.hashes[passed]
        passed, left = passed[found], left[found]
        if not len(passed):
            return
        rows = (np.searchsorted(grams.offsets, passed, "right") - 1) % len(prompts)
        right = np.searchsorted(self.hashes, grams.hashes[passed], "right")
        times = right - left
        at = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times) + np.repeat(left, times)
        pair = np.repeat(rows, times).astype(np.int64) * len(self.items) + self.owners[at]
        for key, starts in _by_owner(pair, self.places[at]):
            row, number = divmod(key, len(self.items))
            if self._own_covered(number, starts) >= COVERED * self.own_words[number]:
                share = self._verified(number, starts, (prompts[row], answers[row])) / self.own_words[number]
                if share >= COVERED:
                    yield row, number, min(1.0, float(share))

    def _verified(self, number: int, starts: np.ndarray, texts: Sequence[str]) -> int:
        """Own words covered by those runs of the item that truly stand in one of the texts."""
        held = [f" {text} " for text in texts]
        words = self.words[number]
        sure = [s for s in starts.tolist() if any(f" {' '.join(words[s : s + SIZE])} " in text for text in held)]
        return self._own_covered(number, np.array(sure, np.int64))


def _by_owner(owners: np.ndarray, places: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(owner, its distinct places in order)."""
    order = np.lexsort((places, owners))
    owners, places = owners[order], places[order]
    cuts = [0, *(np.flatnonzero(np.diff(owners)) + 1).tolist(), len(owners)]
    for a, b in pairwise(cuts):
        if b > a:
            yield int(owners[a]), np.unique(places[a:b])


def _mask(starts: np.ndarray, words: int) -> np.ndarray:
    """Which words runs of 13 that begin at these places cover."""
    covered = np.zeros(words, bool)
    for start in starts.tolist():
        covered[start : start + SIZE] = True
    return covered


def _covered(starts: np.ndarray) -> int:
    """Words covered by runs of 13 words that begin at these places (ascending)."""
    return int(np.minimum(np.diff(starts), SIZE).sum()) + SIZE if len(starts) else 0
