"""Finds rows that repeat a benchmark item (contamination). In the exact form (see text_similarity), a row repeats an item if

- its prompt equals the item (``exact``), or
- shared runs of 13 words cover at least half of the item's words (``overlap``; 13-grams as in Brown et al. 2020,
  appendix C). Runs that many items of the file share are its boilerplate and do not count. An item with fewer than 13 other
  words is matched by equality only.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import exact_form, exact_words
from finetune_pipeline.data.examples import Example, decode_examples
from finetune_pipeline.data.json_lines import decode_line, read_blocks_of_lines
from finetune_pipeline.data.quoting import row_finding
from finetune_pipeline.data.readers.any_file import read_records
from finetune_pipeline.data.readers.records import RawStream
from finetune_pipeline.data.workers import in_order
from finetune_pipeline.findings import Finding, FindingsError, errors
from finetune_pipeline.spec.loading import validated_spec

SIZE = 13  # words of a run
COVERED = 0.5  # share of an item's words from which a row repeats it
_QUESTION_PAIRS = (
    ("instruction", "input"), ("context", "question"), ("passage", "question"), ("premise", "hypothesis"),
    ("sentence1", "sentence2"), ("context", "query"),
)  # fmt: skip
_QUESTION_KEYS = ("question", "query", "prompt", "instruction", "problem", "goal", "premise", "context", "passage", "sentence",
           "input", "text", "content", "utterance")  # fmt: skip
_CHAT_KEYS = ("messages", "conversations", "conversation")
_USER_ROLES = ("user", "human")
_BETWEEN_PARAGRAPHS = re.compile(r"(\n[ \t]*\n)")
_TEXT_SUFFIXES = (".txt", ".md")
_SUFFIXES = (".jsonl", ".json", *_TEXT_SUFFIXES, ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Item:
    """One benchmark item. line: its line in the file, or its row number in a single-line JSON document."""

    file: str
    line: int
    text: str


@dataclass(frozen=True)
class Match:
    """A row that repeats a benchmark item. covered: share of the item's words found in the row, 1 for an exact match."""

    id: str
    place: str
    file: str
    line: int
    how: str
    covered: float

    def finding(self) -> Finding:
        """Return the finding that explains why the row is left out."""
        reason = "its prompt is this item" if self.how == "exact" else f"it shares {self.covered:.0%} of that item"
        message = f"the row repeats an item of the benchmark {self.file} (line {self.line}): {reason}"
        fix = "nothing to do: the row is left out, because training on it would make the benchmark measure memory"
        return row_finding("benchmark_contamination", self.place, message, fix)


def benchmark_rows(path: Path, folder: Path | None) -> dict[int, tuple[Example, Finding]]:
    """Find the rows of an examples file that repeat an item of the benchmark files below a folder. Returns them with the reason, by
    row number. Raises FindingsError for unreadable benchmark files."""
    if benchmark_index(folder) is None:  # unreadable files are reported here, not in a process of the pool
        return {}
    repeating: dict[int, tuple[Example, Finding]] = {}
    rows = 0
    blocks = read_blocks_of_lines(path)
    for in_block, matches in in_order(partial(_matches_in_block, folder=folder), blocks, path.stat().st_size):
        repeating |= {rows + row: (example, match.finding()) for row, (example, match) in matches.items()}
        rows += in_block
    return repeating


def _matches_in_block(data: bytes, folder: Path | None) -> tuple[int, dict[int, tuple[Example, Match]]]:
    """Return (number of rows, {row: (example, match)}) of complete lines of canonical JSON."""
    examples, index = decode_examples(data, "scrubbed examples"), benchmark_index(folder)
    matches = index.find(examples) if index else {}
    return len(examples), {row: (examples[row], match) for row, match in matches.items()}


@lru_cache(maxsize=2)
def benchmark_index(folder: Path | None) -> BenchmarkIndex | None:
    """Index the benchmark files below a folder, once per process; None if there is no folder. Raises FindingsError for
    unreadable files."""
    if folder is None or not folder.is_dir():
        return None
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    return BenchmarkIndex([item for name in names for item in read_benchmark(folder / name, name)])


class BenchmarkIndex:
    """Index of benchmark items. Build it once and use it for any number of rows."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = list(items)
        words = [exact_form(item.text).split(" ") for item in self.items]
        # of equal items the first counts
        self._exact = {" ".join(words[number]): number for number in reversed(range(len(words)))}
        sizes = Counter(item.file for item in self.items)
        runs_by_item = {number: _runs(tokens) for number, tokens in enumerate(words)}
        frequency = Counter(
            (self.items[number].file, run) for number, runs in runs_by_item.items() for run in set(runs)
        )
        self._distinctive: list[np.ndarray] = []  # for each item, which of its words are not boilerplate
        # by run: the items that hold it, each with the index of its first word
        self._starts: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        # first and last word of each run, and its longest word, which few other texts have: for fast tests
        self._ends: set[tuple[str, str]] = set()
        self._longest: set[str] = set()
        for number, item in enumerate(self.items):
            runs = runs_by_item[number]
            common = [frequency[item.file, run] > max(10, 0.01 * sizes[item.file]) for run in runs]
            mask = ~_covered_words([start for start, is_common in enumerate(common) if is_common], len(words[number]))
            self._distinctive.append(mask)
            for start, run in enumerate(runs if mask.sum() >= SIZE else ()):
                if not common[start]:
                    self._starts[run].append((number, start))
                    run_words = words[number][start : start + SIZE]
                    self._ends.add((run_words[0], run_words[-1]))
                    self._longest.add(max(run_words, key=len))

    def find(self, examples: Sequence[Example]) -> dict[int, Match]:
        """Return the rows (by index) that repeat an item, each with the item it covers best."""
        matches = {}
        for row, example in enumerate(examples):
            if best := self._best(example, exact_form(example.user_text)):
                number, covered, how = best
                item = self.items[number]
                matches[row] = Match(example.id, example.place, item.file, item.line, how, round(covered, 4))
        return matches

    def _best(self, example: Example, prompt: str) -> tuple[int, float, str] | None:
        """Return (item, share of its words covered, how it matches) for the best covered item."""
        if prompt in self._exact:
            return self._exact[prompt], 1.0, "exact"
        if not self._ends:
            return None
        answer = "\n".join([m["content"] for m in example.messages if m["role"] == "assistant"])
        shared: defaultdict[int, set[int]] = defaultdict(set)
        for words in (prompt.split(" "), exact_words(answer)):
            if self._longest.isdisjoint(words) or self._ends.isdisjoint(zip(words, words[SIZE - 1 :], strict=False)):
                continue
            for start, ends in enumerate(zip(words, words[SIZE - 1 :], strict=False)):
                if ends in self._ends:
                    for number, item_start in self._starts.get(" ".join(words[start : start + SIZE]), ()):
                        shared[number].add(item_start)
        shares = {}
        for item in sorted(shared):
            mask = self._distinctive[item]
            covered = _covered_words(shared[item], len(mask)) & mask
            shares[item] = float(covered.sum() / mask.sum())
        best = max(shares, key=shares.__getitem__, default=None)
        return None if best is None or shares[best] < COVERED else (best, shares[best], "overlap")


def _runs(words: Sequence[str]) -> list[str]:
    """Return all runs of SIZE consecutive words, by the index of their first word."""
    return [" ".join(words[start : start + SIZE]) for start in range(len(words) - SIZE + 1)]


def _covered_words(starts: Iterable[int], words: int) -> np.ndarray:
    """Return which of this number of words are covered by runs of SIZE words that start at these indices (bool)."""
    covered = np.zeros(words, bool)
    for start in starts:
        covered[start : start + SIZE] = True
    return covered


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def is_benchmark(path: Path) -> bool:
    """Whether :func:`read_benchmark` supports the file's suffix."""
    return _suffix(path) in _SUFFIXES


def read_benchmark(path: Path, name: str | None = None) -> list[Item]:
    """Read the items of a file: paragraphs of text, or rows in any raw format.

    An object gives its question: instruction and input, context and question, the user's turns, or the first of the usual
    fields; else its longest text. Raises FindingsError naming file and line of anything unreadable.
    """
    name, suffix = name or path.name, _suffix(path)
    if suffix not in _SUFFIXES:
        message = f"files that end in {suffix or 'nothing'} are not read"
        raise _unreadable(name, message, f"write {', '.join(_SUFFIXES)}")
    items = [Item(name, line, text) for line, text in (_paragraphs if suffix in _TEXT_SUFFIXES else _rows)(path, name)]
    if not items:
        raise _unreadable(name, "it contains no text", "give a file whose rows hold questions")
    return items


def _unreadable(name: str, message: str, fix: str) -> FindingsError:
    return FindingsError([row_finding("benchmark_unreadable", name, message, fix)])


def _paragraphs(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of the paragraphs of a text."""
    with RawStream(path) as stream:
        data = stream.buffered().read()
        if stream.problem:
            raise _unreadable(name, stream.problem, "make the file readable")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:  # lost characters would hide rows that repeat an item
        raise _unreadable(name, f"byte {error.start:,} is not UTF-8", "save the file as UTF-8") from error
    line = 1
    for piece in _BETWEEN_PARAGRAPHS.split(text):
        if piece.strip():
            yield line + piece[: len(piece) - len(piece.lstrip())].count("\n"), piece.strip()
        line += piece.count("\n")


def _rows(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line, question) of the rows of a file. Raises FindingsError if one cannot be read."""
    spec = {"name": "benchmark", "description": "-", "system_prompt": "-", "output": {"kind": "text"}}
    for record in read_records(path, name, validated_spec({**spec, "data": {"csv": {"header": True}}})):
        value, problems = record.value, [*record.findings]
        if record.encoded:
            value, decode_problems, _ = decode_line(record.raw, f"{name}:{record.line}", record.at)
            problems += decode_problems
        if errors(problems):
            raise FindingsError(errors(problems))
        yield from ((record.item or record.line, text) for text in _item_texts(value) if text.strip())


def _item_texts(row: Any) -> list[str]:
    """Return the questions of a row: several if the row holds `instances` of one instruction, or lists of other rows."""
    if isinstance(row, Mapping):
        for name in _CHAT_KEYS:
            if isinstance(row.get(name), list) and (question := _user_turns(row[name])):
                return [question]
        instances = row.get("instances")
        if isinstance(instances, list) and instances and all(isinstance(instance, Mapping) for instance in instances):
            outer = {k: v for k, v in row.items() if k != "instances"}
            return list(dict.fromkeys(text for instance in instances for text in _item_texts({**outer, **instance})))
        for pair in _QUESTION_PAIRS:
            if all(isinstance(row.get(name), str) for name in pair):
                return ["\n\n".join(row[name] for name in pair if row[name].strip())]
        for name in _QUESTION_KEYS:
            if isinstance(row.get(name), str) and row[name].strip():
                return [row[name]]
        lists = [value for value in row.values() if isinstance(value, list) and value and isinstance(value[0], Mapping)]
        if lists:  # a document around its rows
            return [text for rows in lists for inner in rows for text in _item_texts(inner)]
    texts = list(_strings(row))
    return [max(texts, key=len)] if texts else []


def _user_turns(turns: Sequence[Any]) -> str:
    """Join the texts of the user's turns in a chat, in OpenAI's or ShareGPT's form."""
    objects = (turn for turn in turns if isinstance(turn, Mapping))
    user_turns = (turn for turn in objects if (turn.get("role") or turn.get("from")) in _USER_ROLES)
    texts: list[str] = []
    for turn in user_turns:
        content = turn.get("content", turn.get("value"))
        parts = content if isinstance(content, list) else [content]
        texts += [text for part in parts for text in _strings(part, excluded_key="type")]
    return "\n".join(texts)


def _strings(value: Any, excluded_key: str = "") -> Iterator[str]:
    """Yield all strings in a value, except those under the key `excluded_key`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key != excluded_key:
                yield from _strings(inner, excluded_key)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner, excluded_key)
