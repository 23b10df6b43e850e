"""Finds and removes boilerplate: text that many rows share (preambles, suffixes, prompt templates). Otherwise it would make
unrelated rows look similar. Both read scrubbed texts without the numbers of their placeholders: an address that all rows
share is the second one in a row that begins with another.

Candidates are lines, sentences and runs of words that many rows contain. A candidate is boilerplate only if the remaining text
of its rows is long enough and differs from row to row. So "I want to cancel order 123" stays a question, whatever the number.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import WITHOUT_BLANKS, grams, jaccard, keeps, loose_form
from finetune_pipeline.data.scrub.find import PLACEHOLDER
from finetune_pipeline.engine.files import read_json, write_json

PREAMBLES = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.",
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
)
_HEADINGS = tuple(f"### {name}:" for name in "Instruction Input Response Human Assistant Question Answer".split())
SAMPLE = 20_000  # distinct texts examined
LONG = 40  # minimum length of shared text that counts as boilerplate anywhere in a text
MOST = 100  # maximum number of segments; the most frequent are kept
_LEAST_SHARE, _LEAST_ROWS = 0.005, 20  # minimum share and number of distinct texts with the segment
_SHORTEST_LABEL = 3  # minimum characters of a label on its own line, such as `### Input:`
_LABEL_SHARE = 0.2  # minimum share of the rows with such a label
_SAME_SHARE = 0.8  # a longer segment in this share of a segment's rows is the same boilerplate
_LEAST_CONTENT = 20  # minimum median length of the text that a segment's rows have besides it
_SIMILAR_CONTENT = 0.5  # Jaccard similarity from which the remaining texts of two rows are similar
_RUN_WORDS = 8  # consecutive words of a run
_MOST_WORDS = 2_000_000  # words searched for runs
_ROWS_EXAMINED = 100  # rows examined for a candidate
SENTENCES = re.compile(r"\s(?:(?<=\n)\n*|(?<=[.!?:]\s)\s*)|(?<=[。！？])")
"""Boundaries between lines and between sentences."""
_LABEL = re.compile(r".*:|[#<\[*=_-].*")


@dataclass(frozen=True)
class Boilerplate:
    """Text that many rows share. segments: longest first. Those as long as LONG (see _length) are removed anywhere, shorter
    ones only if they fill a line."""

    segments: tuple[str, ...] = ()

    def with_known(self) -> Boilerplate:
        """Add well-known prompt templates to these segments."""
        return Boilerplate(_longest_first({*self.segments, *PREAMBLES, *_HEADINGS}))

    def save(self, path: Path) -> None:
        write_json(path, {"segments": list(self.segments)}, durable=False)

    @classmethod
    def load(cls, path: Path) -> Boilerplate:
        return cls(tuple(read_json(path)["segments"]))


def _longest_first(segments: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(segments, key=lambda s: (-len(s), s)))


def _length(text: str) -> int:
    """Return the number of characters; those of a script without blanks between words say more and count thrice."""
    return len(text) if text.isascii() else len(text) + 2 * len(WITHOUT_BLANKS.findall(text))


def _unnumbered(text: str) -> str:
    """Return the text with placeholders such as ``[EMAIL]`` in place of ``[EMAIL_2]``."""
    return PLACEHOLDER.sub(r"[\1]", text) if "[" in text else text


def find_boilerplate(texts: Iterable[str]) -> Boilerplate:
    """Find segments that a large enough share and number of the distinct texts have in common; the order of the texts does not
    matter. Of more than SAMPLE texts those with the smallest hashes are examined, so new rows seldom change the result."""
    sample = sorted(set(map(_unnumbered, texts)), key=_digest)[:SAMPLE]
    fewest = max(_LEAST_ROWS, round(_LEAST_SHARE * len(sample)))
    if len(sample) < fewest:
        return Boilerplate()
    chosen = _independent(Counter(_count_lines_and_sentences(sample, fewest)) | Counter(_count_runs(sample, fewest)))
    while True:
        boilerplate = Boilerplate(_longest_first(chosen))
        strip = stripper(boilerplate)
        kept = [segment for segment in chosen if _wraps_content(segment, sample, strip)]
        if len(kept) == len(chosen):
            return boilerplate
        chosen = kept


@lru_cache(maxsize=16)
def stripper(boilerplate: Boilerplate) -> Callable[[str], str]:
    """Return a function that removes this boilerplate from a text, unless nothing would be left."""
    long = [s for s in boilerplate.segments if _length(s) >= LONG]
    short = [s for s in boilerplate.segments if _length(s) < LONG]
    lines = re.compile(r"^[ \t]*(?:" + "|".join(map(re.escape, short)) + r")[ \t]*$", re.MULTILINE)

    def strip(text: str) -> str:
        stripped = unnumbered = _unnumbered(text)
        for segment in long:
            if segment in stripped:
                stripped = stripped.replace(segment, "\n")
        if any([segment in stripped for segment in short]):
            stripped = lines.sub("", stripped)
        if stripped is unnumbered:
            return text
        return stripped.strip() if any(map(keeps, stripped)) else text

    return strip


def _independent(rows: Mapping[str, int]) -> list[str]:
    """Drop segments that are only part of another, or another segment plus the next words of some rows. A segment that extends
    another counts if it is longer by LONG, or if nearly all rows of the other have it."""
    chosen: list[str] = []
    for segment in sorted(rows, key=lambda s: (-rows[s], -len(s), s)):
        if any(segment in s and rows[s] >= rows[segment] for s in chosen):
            continue
        inner = max((s for s in chosen if s in segment), key=len, default="")
        if not inner or _length(segment) - _length(inner) >= LONG or rows[segment] >= _SAME_SHARE * rows[inner]:
            chosen.append(segment)
            if len(chosen) == MOST:
                break
    return chosen


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _count_lines_and_sentences(texts: Sequence[str], fewest: int) -> dict[str, int]:
    """Count the texts that contain each long sentence or line, and each short label on its own line."""
    long: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for text in texts:
        lines = {line.strip() for line in text.split("\n")}
        long.update({piece for s in (*SENTENCES.split(text), *lines) if _length(piece := s.strip()) >= LONG})
        labels.update({s for s in lines if len(s) >= _SHORTEST_LABEL and _length(s) < LONG and _LABEL.fullmatch(s)})
    fewest_labels = max(fewest, round(_LABEL_SHARE * len(texts)))
    pieces = {s: n for s, n in long.items() if n >= fewest}
    return pieces | {s: n for s, n in labels.items() if n >= fewest_labels}


def _count_runs(texts: Sequence[str], fewest: int) -> dict[str, int]:
    """Count the texts that contain each long run of words found in many texts: a stretch in which every eight consecutive words
    are that frequent."""
    word_ids: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    ids: list[int] = []
    starts = [0]
    for text in texts:
        ids.extend(map(word_ids.__getitem__, text.split()))
        starts.append(len(ids))
        if len(ids) > _MOST_WORDS:
            break
    windows = len(ids) - _RUN_WORDS + 1
    if windows < 1:
        return {}
    fewest = max(2, round(fewest * (len(starts) - 1) / len(texts)))
    words, run_hashes = np.array(ids, np.uint64), np.zeros(windows, np.uint64)
    for j in range(_RUN_WORDS):
        run_hashes = (run_hashes ^ words[j : j + windows]) * np.uint64(0x9E3779B97F4A7C15)
        run_hashes ^= run_hashes >> np.uint64(32)
    text_of_word = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    within_text = text_of_word[:windows] == text_of_word[_RUN_WORDS - 1 :]
    _, run_of_window = np.unique(run_hashes[within_text], return_inverse=True)
    # each pair of a run and a text with it, once
    pairs = np.unique(run_of_window * len(starts) + text_of_word[:windows][within_text])
    texts_with_run = np.bincount(pairs // len(starts))[run_of_window]
    frequent = np.zeros(windows + 2, np.int8)
    frequent[1:-1][within_text] = texts_with_run >= fewest
    found_runs: set[tuple[int, str]] = set()
    for first, last in np.flatnonzero(np.diff(frequent)).reshape(-1, 2).tolist():
        number = int(text_of_word[first])
        text, start = texts[number], starts[number]
        run_words = list(re.finditer(r"\S+", text))[first - start : last - start + _RUN_WORDS - 1]
        found_runs.add((number, text[run_words[0].start() : run_words[-1].end()]))
    runs = Counter(run for _, run in found_runs)
    return {run: count for run, count in runs.items() if count >= fewest and _length(run) >= LONG}


def _wraps_content(segment: str, texts: Sequence[str], strip: Callable[[str], str]) -> bool:
    """Whether the texts with this segment contain long and varied text in addition to the boilerplate."""
    contents = []
    for text in texts:
        if segment in text:
            content = strip(text)
            contents.append("" if content == text else loose_form(content))
            if len(contents) == _ROWS_EXAMINED:
                break
    if not contents or len(set(contents)) < len(contents) / 2 or median(map(_length, contents)) < _LEAST_CONTENT:
        return False
    return median(jaccard(a, b) for a, b in pairwise(map(grams, contents))) < _SIMILAR_CONTENT
