"""The leakage certificate: no row of one split says what a row of another says, and the search for it is proven.

Exact (the same prompt), near (verified Jaccard similarity of prompts, templates left out) and by group, between each two
splits; semantic where the spec asks for it. Rows that an earlier certificate compared with each other, in the splits they
are in now, need not be compared again: every other row is compared with all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune_pipeline.data.band_search import bounds_of, sharing, taken
from finetune_pipeline.data.buckets import candidate_pairs
from finetune_pipeline.data.canaries import KINDS, Canary, make_canaries
from finetune_pipeline.data.columns import fetch, group_hash, prompt_hash
from finetune_pipeline.data.growth import isin
from finetune_pipeline.data.ledger import SPLITS
from finetune_pipeline.data.semantic_leaks import prove_semantic, semantic_leaks
from finetune_pipeline.data.sketches import loose_forms, similarities, sketch
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.spec import TaskSpec

PAIRS_SHOWN = 20
BETWEEN = (("train", "test"), ("validation", "test"), ("train", "validation"))
_PAIRS_AT_ONCE = 100_000
_CANARY_SOURCES = 64
_CLOSE = 1e-9
_TRAIN = SPLITS.index("train")
Found = list[tuple[int, int, float]]
"""(row, other row, likeness) of pairs across splits."""


def certify(
    rows: np.ndarray,
    split: np.ndarray,
    prepared: Sequence[Path],
    templates: Templates,
    spec: TaskSpec,
    certified: np.ndarray | None = None,
) -> dict[str, Any]:
    """Compare all rows (CLEAN_ROW, [n]) that have a split (int8, place in SPLITS; negative: none).

    `prepared`: the clean stage's part folders, with the rows' texts and sketches; `certified` (bool, [n]): rows that an
    earlier certificate found free of leaks among themselves, in these splits. Returns exact, near, semantic, group (pairs
    or groups), by_pair ({"train-test": {…}}), pairs (up to 20 shown by id), threshold, rows, compared_anew (rows), canaries
    ({planted, found, by_kind, missed}).
    """
    found = _Rows(rows, split, prepared, templates, spec)
    there = np.flatnonzero(split >= 0)
    fresh = there if certified is None else there[~certified[there]]
    planted = _plant(found)
    few = 8 * len(fresh) < len(there)  # then only rows that share a band key with a fresh one are of interest
    asking = [planted.sketches, *([found.sketches(fresh)] if few else [])]
    reached = sharing(found.files, np.concatenate(asking))  # in one pass for both searches
    near_those = np.union1d(reached[split[reached] >= 0], fresh) if few else there
    by_pair = {f"{a}-{b}": Counter({"exact": 0, "near": 0, "semantic": 0, "group": 0}) for a, b in BETWEEN}
    shown: list[dict[str, Any]] = []
    for kind, pairs in (
        ("exact", _equal(found.prompt, found.split, there, fresh, zero=True)),
        ("group", _equal(found.group, found.split, there, fresh, zero=False)),
        ("near", found.near(near_those, fresh)),
        ("semantic", semantic_leaks(found.user_texts(there), there, split, spec) if spec.data.semantic else []),
    ):
        for i, j, likeness in pairs:
            name = _between(split[i], split[j])
            by_pair[name][kind] += 1
            if len(shown) < PAIRS_SHOWN:
                shown.append(_show(rows, name, kind, i, j, likeness))
    totals = {kind: sum(c[kind] for c in by_pair.values()) for kind in ("exact", "near", "semantic", "group")}
    return {
        **totals,
        "by_pair": {name: dict(counts) for name, counts in by_pair.items()},
        "pairs": shown,
        "threshold": found.threshold,
        "rows": len(there),
        "compared_anew": len(fresh),
        "canaries": _prove(found, planted, reached),
    }


class _Rows:
    """The rows in question, their texts and sketches, fetched when asked for."""

    def __init__(
        self, rows: np.ndarray, split: np.ndarray, prepared: Sequence[Path], templates: Templates, spec: TaskSpec
    ) -> None:
        self.rows, self.split, self.prepared = rows, split, list(prepared)
        self.templates, self.spec = templates, spec
        self.threshold = spec.data.near_duplicate_threshold
        self.prompt, self.group = (np.ascontiguousarray(rows[name]) for name in ("prompt", "group"))
        self.files = [folder / "sketch.npy" for folder in self.prepared]
        self.bounds = bounds_of(rows["part"], len(self.files))

    def examples(self, which: np.ndarray) -> list[Any]:
        """The examples of these rows."""
        rows = self.rows[which]
        return fetch(self.prepared, rows["part"].astype(np.int64), rows["start"], rows["end"])

    def user_texts(self, which: np.ndarray) -> list[str]:
        """Their user texts."""
        return [e.user_text for e in self.examples(which)]

    def sketches(self, which: np.ndarray) -> np.ndarray:
        """Their sketches (rows ascending)."""
        return taken(self.files, self.bounds, which)

    def near(self, there: np.ndarray, fresh: np.ndarray) -> Found:
        """Verified pairs across splits with a fresh row in them; pairs of equal prompts are counted as exact."""
        if not len(fresh):
            return []
        pairs = there[candidate_pairs(self.sketches(there), np.isin(there, fresh), self.threshold)]
        left, right = pairs[:, 0], pairs[:, 1]
        pairs = pairs[(self.split[left] != self.split[right]) & (self.prompt[left] != self.prompt[right])]
        found = []
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            part = pairs[start : start + _PAIRS_AT_ONCE]
            needed, places = np.unique(part, return_inverse=True)
            likeness = similarities(loose_forms(self.user_texts(needed), self.templates), places.reshape(-1, 2))
            for k in np.flatnonzero(likeness >= self.threshold - _CLOSE):
                found.append((int(part[k, 0]), int(part[k, 1]), float(likeness[k])))
        return found


def _equal(values: np.ndarray, split: np.ndarray, there: np.ndarray, fresh: np.ndarray, zero: bool) -> Found:
    """Rows of different splits with one value, a fresh row's."""
    if len(fresh) < len(there):
        there = there[isin(values[there], values[fresh])]
    return [(int(there[i]), int(there[j]), 1.0) for i, j in _shared(values[there], split[there].astype(np.int64), zero)]


def _shared(values: np.ndarray, codes: np.ndarray, zero: bool = True) -> list[tuple[int, int]]:
    """For every value that occurs in several splits and each two of them: one row of either."""
    some = np.arange(len(values)) if zero else np.flatnonzero(values != 0)
    order = np.lexsort((codes[some], values[some]))
    value, code = values[some][order], codes[some][order]
    new = np.ones(len(order), bool)
    new[1:] = (value[1:] != value[:-1]) | (code[1:] != code[:-1])
    first, distinct = order[new], value[new]
    same = np.flatnonzero(distinct[1:] == distinct[:-1])
    found = [(int(some[first[k]]), int(some[first[k + 1]])) for k in same]
    for k in same:  # a value in all three splits: its first and third, too
        if k + 2 < len(distinct) and distinct[k + 2] == distinct[k]:
            found.append((int(some[first[k]]), int(some[first[k + 2]])))
    return found


class _Planted(NamedTuple):
    """Canaries among the training rows of a copy. chosen (int64): the rows they were made from; sources: those rows'
    examples."""

    chosen: np.ndarray
    sources: list[Any]
    canaries: Sequence[Canary]
    sketches: np.ndarray


def _plant(of: _Rows) -> _Planted:
    chosen = _smallest(of.rows, np.flatnonzero(of.split > _TRAIN))
    sources = of.examples(chosen)
    canaries = make_canaries(sources, of.threshold, of.templates)
    forms = loose_forms([c.example.user_text for c in canaries], of.templates)
    return _Planted(chosen, sources, canaries, sketch(forms, of.threshold))


def _prove(of: _Rows, planted_rows: _Planted, reached: np.ndarray) -> dict[str, Any]:
    """Look for the canaries the way leaks are looked for, among the rows `reached` by their sketches (and maybe others).

    Returns planted, found, by_kind ({kind: [planted, found]}) and missed (names).
    """
    chosen, sources, canaries, sketches = planted_rows
    guarded = np.flatnonzero(of.split > _TRAIN)
    prompts = np.array([prompt_hash(c.example.user_text) for c in canaries], np.uint64)
    groups = np.array([group_hash(c.example.group) if c.kind == "same_group" else 0 for c in canaries], np.uint64)
    within = np.zeros(len(of.rows), bool)
    within[reached] = True
    within[chosen] = True
    within |= isin(of.prompt, prompts)
    within |= isin(of.group, groups[groups != 0])
    held = guarded[within[guarded]]
    caught = _caught(of, held, canaries, sketches)
    grouped = of.group[held]
    for canary in canaries:
        if canary.kind == "same_group":
            grouped[np.searchsorted(held, chosen[canary.source])] = group_hash(canary.example.group)
    n, planted = len(held), np.concatenate([of.split[held], np.full(len(canaries), _TRAIN)]).astype(np.int64)
    same = _shared(np.concatenate([of.prompt[held], prompts]), planted)
    together = _shared(np.concatenate([grouped, groups]), planted, False)
    alike = {"exact": {max(p) - n for p in same}, "same_group": {max(p) - n for p in together}}
    verdicts = [
        (canary, number in alike[canary.kind] if canary.kind in alike else (number, chosen[canary.source]) in caught)
        for number, canary in enumerate(canaries)
    ]
    if of.spec.data.semantic is not None:
        verdicts += prove_semantic(sources, of.user_texts(_smallest(of.rows, guarded, 2000)), of.spec.data.semantic)
    counts = {kind: [0, 0] for kind in KINDS}
    for canary, found in verdicts:
        counts[canary.kind][0] += 1
        counts[canary.kind][1] += found
    return {
        "planted": len(verdicts),
        "found": sum(found for _, found in verdicts),
        "by_kind": {kind: pair for kind, pair in counts.items() if pair[0]},
        "missed": [canary.example.id for canary, found in verdicts if not found],
    }


def _smallest(rows: np.ndarray, guarded: np.ndarray, count: int = _CANARY_SOURCES) -> np.ndarray:
    """So many of the rows, ascending: those with the smallest ids, the same ones in whatever order the rows stand."""
    ids = rows["id"][guarded]
    if len(ids) > count:
        guarded = guarded[ids <= np.partition(ids, count - 1)[count - 1]]
    return np.sort(guarded[np.argsort(rows["id"][guarded], kind="stable")[:count]])


def _caught(of: _Rows, held: np.ndarray, canaries: Sequence[Canary], sketches: np.ndarray) -> set[tuple[int, int]]:
    """(canary, row) of the pairs the search for near leaks finds between canaries and the rows `held`."""
    both = np.concatenate([of.sketches(held), sketches])
    fresh = np.arange(len(both)) >= len(held)
    pairs = candidate_pairs(both, fresh, of.threshold)
    pairs = pairs[(pairs[:, 0] < len(held)) & (pairs[:, 1] >= len(held))]
    needed, places = np.unique(pairs[:, 0], return_inverse=True)
    texts = [*of.user_texts(held[needed]), *(c.example.user_text for c in canaries)]
    places = np.stack([places.reshape(-1), pairs[:, 1] - len(held) + len(needed)], 1)
    likeness = similarities(loose_forms(texts, of.templates), places)
    return {
        (int(pairs[k, 1]) - len(held), int(held[pairs[k, 0]]))
        for k in np.flatnonzero(likeness >= of.threshold - _CLOSE)
    }


def _between(a: int, b: int) -> str:
    names = {SPLITS[a], SPLITS[b]}
    return next(f"{x}-{y}" for x, y in BETWEEN if {x, y} == names)


def _show(rows: np.ndarray, splits: str, kind: str, i: int, j: int, likeness: float) -> dict[str, Any]:
    return {
        "splits": splits,
        "kind": kind,
        "id": f"{rows['id'][i]:016x}",
        "other_id": f"{rows['id'][j]:016x}",
        "similarity": round(likeness, 4),
    }
