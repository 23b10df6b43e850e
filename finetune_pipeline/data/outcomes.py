"""What was decided about the members of every cluster, kept so that a cluster that has not changed is not judged again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from finetune_pipeline.artifacts import digest_json
from finetune_pipeline.data.columns import Table
from finetune_pipeline.data.parts import Workers
from finetune_pipeline.data.settling import EXACT, NEAR, Batch, Settled, settle
from finetune_pipeline.progress import tell
from finetune_pipeline.spec import TaskSpec

CODE = "1"
ARRAYS, TOLD = "outcomes.npz", "outcomes.jsonl"
_MEMBERS_AT_ONCE = 20_000


@dataclass
class Known:
    """Outcomes of an earlier run: `names` (uint64, sorted) of its clusters, their members' outcomes, what was said."""

    names: np.ndarray
    bounds: np.ndarray
    state: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    told: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]]

    def changed(self, gone: np.ndarray, come: Known) -> Known:
        """These outcomes without those of the clusters named `gone`, and with others."""
        stay = np.flatnonzero(~np.isin(self.names, gone))
        names = np.concatenate([self.names[stay], come.names])
        order = np.argsort(names, kind="stable")
        sizes = np.concatenate([np.diff(self.bounds)[stay], np.diff(come.bounds)])
        bounds = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        kept, source = _ranges(self.bounds, stay), _ranges(bounds, order)
        state = np.concatenate([self.state[kept], come.state])[source]
        of = np.concatenate([self.of[kept], come.of])[source]
        similarity = np.concatenate([self.similarity[kept], come.similarity])[source]
        origin = [*(self.told.get(i) for i in stay.tolist()), *(come.told.get(i) for i in range(len(come.names)))]
        told = {place: said for place, i in enumerate(order.tolist()) if (said := origin[i]) is not None}
        return Known(
            names[order], np.concatenate([[0], np.cumsum(sizes[order])]).astype(np.int64), state, of, similarity, told
        )

    def findings(self) -> list[dict[str, Any]]:
        """Findings of all clusters, in the order of their names."""
        return [finding for i in sorted(self.told) for finding in self.told[i][0]]

    def quarantine(self) -> list[dict[str, Any]]:
        """Quarantined rows of all clusters, in the order of their names."""
        return [row for i in sorted(self.told) for row in self.told[i][1]]

    def save(self, out: Path, spec: TaskSpec) -> None:
        """Write what :func:`known_outcomes` reads."""
        arrays = {name: getattr(self, name) for name in ("names", "bounds", "state", "of", "similarity")}
        np.savez(out / ARRAYS, basis=np.array(_basis(spec)), **arrays)
        with (out / TOLD).open("wb") as told:
            for place in sorted(self.told):
                told.write(msgspec.json.encode([place, *self.told[place]]) + b"\n")


@dataclass
class Outcomes:
    """Clusters of two or more rows. `members` (int64, [m]): rows, cluster after cluster, as `bounds` says; `names`
    (uint64): a hash of each cluster's rows; `state`, `of`, `similarity`: as in settling.Settled; `told`: findings and
    quarantined rows by the cluster's number; `open`: clusters that are still to be settled."""

    members: np.ndarray
    bounds: np.ndarray
    names: np.ndarray
    state: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    open: np.ndarray
    told: dict[int, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = field(default_factory=dict)

    @classmethod
    def of_members(cls, members: np.ndarray, bounds: np.ndarray, names: np.ndarray) -> Outcomes:
        """Outcomes that are still open for all clusters."""
        m = len(members)
        state, of, similarity = np.zeros(m, np.uint8), np.zeros(m, np.uint32), np.ones(m, np.float32)
        return cls(members, bounds, names, state, of, similarity, np.arange(len(names)))

    @classmethod
    def begin(cls, table: Table, rows: np.ndarray, labels: np.ndarray, known: Known | None) -> Outcomes:
        """The clusters (`labels`) among `rows` (int64, ascending) that go on, with what is known of them already."""
        alive = table.rows["lost"][rows] == 0
        rows, labels = rows[alive], labels[alive]
        order = np.argsort(labels, kind="stable")
        order, ordered = rows[order], labels[order]
        edges = np.flatnonzero(np.diff(ordered, prepend=-1, append=-2))
        sizes = np.diff(edges)
        several = sizes > 1
        members = order[np.repeat(several, sizes)]
        bounds = np.concatenate([[0], np.cumsum(sizes[several])]).astype(np.int64)
        made = cls.of_members(members, bounds, _names(table, members, bounds))
        if known is not None and len(known.names) and len(made.names):
            made._recall(known)
        return made

    def _recall(self, known: Known) -> None:
        at = np.searchsorted(known.names, self.names)
        at[at == len(known.names)] = 0
        found = np.flatnonzero((known.names[at] == self.names) & (np.diff(known.bounds)[at] == np.diff(self.bounds)))
        source = _ranges(known.bounds, at[found])
        target = _ranges(self.bounds, found)
        self.state[target], self.of[target] = known.state[source], known.of[source]
        self.similarity[target] = known.similarity[source]
        self.told = {int(i): known.told[int(at[i])] for i in found if int(at[i]) in known.told}
        self.open = np.setdiff1d(np.arange(len(self.names)), found)

    def settle(self, table: Table, spec: TaskSpec, workers: Workers) -> None:
        """Judge the clusters that are open."""
        numbers: list[np.ndarray] = []
        total, done = len(self.open), 0
        sizes = np.diff(self.bounds)[self.open]
        cuts = np.flatnonzero(np.diff(np.cumsum(sizes) // _MEMBERS_AT_ONCE, prepend=0))
        numbers = [n for n in np.split(self.open, cuts) if len(n)]

        def batches() -> Iterator[Batch]:
            for chosen in numbers:
                rows = self.members[_ranges(self.bounds, chosen)]
                part, held = np.unique(table.part[rows], return_inverse=True)
                bounds = np.concatenate([[0], np.cumsum(np.diff(self.bounds)[chosen])]).astype(np.int64)
                folders = [table.folders[p] for p in part]
                yield Batch(folders, held, table.rows["start"][rows], table.rows["end"][rows], bounds)

        for chosen, settled in zip(numbers, workers.run(partial(settle, spec=spec), batches()), strict=True):
            self._take(chosen, settled)
            done += len(chosen)
            tell("clean_examples", f"{done} of {total} clusters settled", step=done, of=total)
        self.open = np.zeros(0, np.int64)

    def _take(self, chosen: np.ndarray, settled: Settled) -> None:
        target = _ranges(self.bounds, chosen)
        self.state[target], self.of[target], self.similarity[target] = settled.state, settled.of, settled.similarity
        for number, findings in settled.findings:
            self.told.setdefault(int(chosen[number]), ([], []))[0].extend(findings)
        for number, rows in settled.quarantine:
            self.told.setdefault(int(chosen[number]), ([], []))[1].extend(rows)

    def repeats(self) -> Iterator[tuple[int, int, int, float]]:
        """(row, the row it repeats, EXACT or NEAR, similarity of the prompts), in the order of rows."""
        first = np.repeat(self.bounds[:-1], np.diff(self.bounds))
        gone = np.flatnonzero((self.state == EXACT) | (self.state == NEAR))
        gone = gone[np.argsort(self.members[gone], kind="stable")]
        kept = self.members[first[gone] + self.of[gone]]
        yield from zip(
            self.members[gone].tolist(),
            kept.tolist(),
            self.state[gone].tolist(),
            self.similarity[gone].tolist(),
            strict=True,
        )

    def known(self) -> Known:
        """The outcomes by the names of the clusters, without their rows."""
        order = np.argsort(self.names, kind="stable")
        source = _ranges(self.bounds, order)
        told = {place: self.told[number] for place, number in enumerate(order.tolist()) if number in self.told}
        return Known(
            self.names[order],
            np.concatenate([[0], np.cumsum(np.diff(self.bounds)[order])]).astype(np.int64),
            self.state[source],
            self.of[source],
            self.similarity[source],
            told,
        )


def _basis(spec: TaskSpec) -> str:
    """Digest of the part of the spec an outcome depends on."""
    data = spec.data
    return digest_json([CODE, spec.labels, data.near_duplicate_threshold, data.contradictions])


def known_outcomes(earlier: Sequence[Path], spec: TaskSpec) -> Known | None:
    """Outcomes of the first earlier folder that depend on the same part of the spec."""
    for folder in earlier:
        if not (folder / ARRAYS).is_file():
            continue
        with np.load(folder / ARRAYS) as arrays:
            if str(arrays["basis"]) != _basis(spec):
                continue
            told = {}
            for line in (folder / TOLD).read_bytes().splitlines():
                place, findings, rows = msgspec.json.decode(line)
                told[place] = (findings, rows)
            return Known(arrays["names"], arrays["bounds"], arrays["state"], arrays["of"], arrays["similarity"], told)
    return None


def _names(table: Table, members: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """A hash (uint64) of each cluster: of its rows' ids, contents and source lines, in their order."""
    if len(bounds) < 2:
        return np.zeros(0, np.uint64)
    ids, whole, line = (table.rows[name][members] for name in ("id", "whole", "line"))
    place = np.arange(len(members)) - np.repeat(bounds[:-1], np.diff(bounds))
    mixed = np.zeros(len(members), np.uint64)
    files = np.array([hash_name(f) for f in table.files], np.uint64)[table.part[members]]
    for values in (ids, whole, line.astype(np.uint64), files, place.astype(np.uint64)):
        mixed = (mixed ^ values) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return np.add.reduceat(mixed, bounds[:-1])


def hash_name(name: str) -> int:
    """64 bits of a digest of a file's name."""
    return int(digest_json(name)[:16], 16)


def _ranges(bounds: np.ndarray, which: np.ndarray) -> np.ndarray:
    """The places bounds[i]..bounds[i + 1] of every i in `which`, one after the other."""
    starts, sizes = bounds[which], np.diff(bounds)[which]
    if not len(which):
        return np.zeros(0, np.int64)
    offsets = np.repeat(starts - np.concatenate([[0], np.cumsum(sizes)[:-1]]), sizes)
    return offsets + np.arange(int(sizes.sum()))
