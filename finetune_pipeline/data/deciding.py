"""Which rows of the clean stage stay: decided for all of them, or for new ones and whatever they touch.

Both ways give the same :class:`Decided`. A cluster without a new row has the members it had, and what was decided about
them holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from finetune_pipeline.artifacts import read_json, write_json
from finetune_pipeline.data.band_search import bounds_of
from finetune_pipeline.data.clustering import (
    KNOWN,
    Pairs,
    basis,
    cluster,
    cluster_ids,
    find_pairs,
    known_pairs,
    more_pairs,
    reached_by,
    semantic_suspects,
    with_suspects,
)
from finetune_pipeline.data.columns import Table
from finetune_pipeline.data.growth import Growth, grown
from finetune_pipeline.data.outcomes import Known, Outcomes, known_outcomes
from finetune_pipeline.data.parts import Workers
from finetune_pipeline.data.settling import EXACT, KEPT, NEAR
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.spec import TaskSpec

BASIS, DUPLICATES, TABLE = "basis.json", "duplicates.jsonl", "rows.npy"
GONE = 4
_FEW = 8
"""Decided anew is only what is new if that is less than one row in so many."""


@dataclass
class Decided:
    """clusters (uint64, [n]): the smallest id in each row's cluster; states (uint8, [n]): KEPT, EXACT, NEAR,
    CONTRADICTION or GONE; count: of clusters; pairs: similar prompts; outcomes: of clusters of several rows; repeats: one
    JSON line for every removed repeat, in the order of rows; suspects: rows that may mean the same; carried: the rows
    (CLEAN_ROW) of an earlier artifact, how they have grown, and which of the present rows (int64) were decided anew."""

    clusters: np.ndarray
    states: np.ndarray
    count: int
    pairs: Pairs
    outcomes: Known
    repeats: list[bytes]
    suspects: Sequence[tuple[int, int, float]]
    carried: tuple[np.ndarray, Growth, np.ndarray] | None = None

    def save(self, out: Path, spec: TaskSpec, parts: Sequence[tuple[str, int]]) -> None:
        """Write what :func:`decide` asks of an earlier artifact, besides ``rows.npy``."""
        self.pairs.save(out / KNOWN)
        self.outcomes.save(out, spec)
        (out / DUPLICATES).write_bytes(b"".join(self.repeats))
        semantic = spec.data.semantic.model_dump() if spec.data.semantic else None
        write_json(out / BASIS, {"semantic": semantic, "parts": [list(part) for part in parts]}, durable=False)


@dataclass
class _Before:
    folder: Path
    growth: Growth
    rows: np.ndarray
    pairs: Pairs
    outcomes: Known


def decide(
    table: Table,
    prepared: Sequence[Path],
    templates: Templates,
    spec: TaskSpec,
    earlier: Sequence[Path],
    workers: Workers,
) -> Decided:
    """Cluster the rows by their prompts and settle the clusters; `prepared`: the folders of the table's parts."""
    parts = parts_of(table, prepared)
    before = None if spec.data.semantic else _before(earlier, parts, templates, spec)
    if before is not None and _FEW * int((before.growth.old < 0).sum()) < len(table.rows):
        return _decide_new(table, prepared, before, templates, spec, workers)
    return _decide_all(table, prepared, templates, spec, earlier, workers)


def parts_of(table: Table, prepared: Sequence[Path]) -> list[tuple[str, int]]:
    """(key, rows) of every part."""
    sizes = np.diff(bounds_of(table.part, len(prepared))).tolist()
    return [(folder.name, size) for folder, size in zip(prepared, sizes, strict=True)]


def _before(
    earlier: Sequence[Path], parts: Sequence[tuple[str, int]], templates: Templates, spec: TaskSpec
) -> _Before | None:
    """The first earlier artifact that was decided in the same way, and all of whose parts are still there."""
    wanted = basis(spec.data.near_duplicate_threshold, templates)
    for folder in earlier:
        if not (folder / BASIS).is_file():
            continue
        told = read_json(folder / BASIS)
        growth = None if told["semantic"] else grown([(key, rows) for key, rows in told["parts"]], parts)
        pairs, outcomes = known_pairs([folder], wanted), known_outcomes([folder], spec)
        if growth is not None and pairs is not None and outcomes is not None:
            return _Before(folder, growth, np.load(folder / TABLE, mmap_mode="r"), pairs, outcomes)
    return None


def _decide_all(
    table: Table,
    prepared: Sequence[Path],
    templates: Templates,
    spec: TaskSpec,
    earlier: Sequence[Path],
    workers: Workers,
) -> Decided:
    threshold, rows = spec.data.near_duplicate_threshold, table.rows
    known = known_pairs(earlier, basis(threshold, templates))
    pairs = find_pairs(table, _sketches(prepared), threshold, templates, known)
    suspects = semantic_suspects(table, spec)
    joined = with_suspects(pairs, table, suspects) if spec.data.semantic and spec.data.semantic.remove else pairs
    labels = cluster(table, joined)
    outcomes = Outcomes.begin(table, np.arange(len(rows)), labels, known_outcomes(earlier, spec))
    outcomes.settle(table, spec, workers)
    states = np.full(len(rows), KEPT, np.uint8)
    states[outcomes.members] = outcomes.state
    states[rows["lost"] > 0] = GONE
    count = int(labels.max(initial=-1)) + 1
    repeats = [line for _, line in _repeats(table, outcomes)]
    return Decided(cluster_ids(rows["id"], labels), states, count, pairs, outcomes.known(), repeats, suspects)


def _decide_new(
    table: Table,
    prepared: Sequence[Path],
    before: _Before,
    templates: Templates,
    spec: TaskSpec,
    workers: Workers,
) -> Decided:
    threshold, rows, growth = spec.data.near_duplicate_threshold, table.rows, before.growth
    new = np.flatnonzero(growth.old < 0)
    pairs = more_pairs(table, _sketches(prepared), threshold, templates, before.pairs, new)
    reached, labels, count = reached_by(table, pairs, new)
    outcomes = Outcomes.begin(table, reached, labels, before.outcomes)
    outcomes.settle(table, spec, workers)
    was = growth.old[reached] >= 0  # the clusters these rows had before are no more, unless they are the same
    _, former = np.unique(before.rows["cluster"][growth.old[reached[was]]], return_inverse=True)
    gone = Outcomes.begin(table, reached[was], former.reshape(-1), None).names
    clusters, states = growth.carried(before.rows["cluster"]), growth.carried(before.rows["state"])
    clusters[reached] = cluster_ids(rows["id"][reached], labels)
    states[reached] = np.where(rows["lost"][reached] > 0, GONE, KEPT)
    states[outcomes.members] = outcomes.state
    changed = before.outcomes.changed(gone, outcomes.known())
    repeats = _merged(table, before, reached, _repeats(table, outcomes))
    return Decided(clusters, states, count, pairs, changed, repeats, [], (before.rows, growth, reached))


def _sketches(prepared: Sequence[Path]) -> list[Path]:
    return [folder / "sketch.npy" for folder in prepared]


def _repeats(table: Table, outcomes: Outcomes) -> list[tuple[int, bytes]]:
    """(row, line of duplicates.jsonl) of every removed repeat; built from columns, since there may be very many."""
    rows = table.rows
    names = [msgspec.json.encode(name).decode() for name in table.files]

    def source(i: int) -> str:
        return f'{{"file":{names[table.part[i]]},"line":{rows["line"][i]}}}'

    lines = []
    for i, kept, state, likeness in outcomes.repeats():
        line = (
            f'{{"id":"{rows["id"][i]:016x}","source":{source(i)},"kept_id":"{rows["id"][kept]:016x}",'
            f'"kept_source":{source(kept)},"kind":"{"exact" if state == EXACT else "near"}",'
            f'"similarity":{round(float(likeness), 4)}}}\n'
        )
        lines.append((i, line.encode("utf-8", "surrogatepass")))
    return lines


def _merged(table: Table, before: _Before, reached: np.ndarray, fresh: list[tuple[int, bytes]]) -> list[bytes]:
    """The lines about rows that nothing new reaches, and the fresh ones, in the order of rows."""
    state = before.rows["state"]
    removed = before.growth.places(np.flatnonzero((state == EXACT) | (state == NEAR)))
    inside = np.zeros(len(table.rows), bool)
    inside[reached] = True
    told = (before.folder / DUPLICATES).read_bytes().splitlines(keepends=True)
    lines = [(i, line) for i, line in zip(removed.tolist(), told, strict=True) if not inside[i]]
    return [line for _, line in sorted([*lines, *fresh])]
