"""Benchmark files of a task while rows are cleaned: rows that repeat one of their items go no further."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import digest_file
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.json_lines import combine_digests, read_rows
from finetune_pipeline.data.quality.benchmark_files import read_benchmark
from finetune_pipeline.data.quality.contamination import BenchmarkIndex, Match, contamination
from finetune_pipeline.data.raw_files import BENCHMARKS
from finetune_pipeline.findings import Finding

MATCHES = "benchmark_matches.jsonl"


@dataclass(frozen=True)
class Benchmarks:
    """The benchmark files below a folder; small enough to be sent to other processes, which read the files themselves."""

    folder: Path
    names: tuple[str, ...]
    digest: str

    def matches(self, examples: Sequence[Example]) -> dict[int, tuple[Match, Finding]]:
        """Place in `examples` to match and finding, for the rows that repeat a benchmark item."""
        places = {(e.id, e.place): i for i, e in enumerate(examples)}
        found = {}
        for match in _index(self.folder, self.names, self.digest).find(examples):
            how = "its prompt is that item" if match.how == "exact" else f"it covers {match.covered:.0%} of that item"
            finding = Finding(
                "data.benchmark_contamination",
                "error",
                match.place,
                f"the row repeats an item of the benchmark {match.file} (line {match.line}): {how}",
                "nothing to do; the row is left out, else the benchmark's score would measure memory",
            )
            found[places[match.id, match.place]] = (match, finding)
        return found


@lru_cache(maxsize=2)
def _index(folder: Path, names: tuple[str, ...], digest: str) -> BenchmarkIndex:
    return BenchmarkIndex([item for name in names for item in read_benchmark(folder / name, name)])


def load_benchmarks(raw: Path | None) -> Benchmarks | None:
    """The benchmark files of a raw artifact; None where there are none. Raises FindingsError for unreadable ones."""
    folder = raw / BENCHMARKS if raw else None
    if folder is None or not folder.is_dir():
        return None
    names = tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()))
    made = Benchmarks(folder, names, combine_digests((name, digest_file(folder / name)) for name in names))
    _index(made.folder, made.names, made.digest)  # unreadable files are told now, not by a process of the pool
    return made


def benchmark_report(raw: Path | None, clean: Path, rows: int) -> dict[str, Any] | None:
    """The report's part on benchmarks, from the matches the clean stage noted; None where there are no benchmarks."""
    benchmarks = load_benchmarks(raw)
    if benchmarks is None:
        return None
    items = _index(benchmarks.folder, benchmarks.names, benchmarks.digest).items
    return contamination([Match(**row) for row in read_rows(clean / MATCHES)], items, rows)
