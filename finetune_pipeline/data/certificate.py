"""The leakage certificate: no row of one split says what a row of another says, and the search for it is proven.

Exact (the same prompt), near (verified Jaccard similarity of prompts, templates left out) and by group, between each two
splits; semantic where the spec asks for it. Pairs of rows that an earlier certificate on the same basis covers, and
whose splits are the same, are not compared again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.buckets import candidate_pairs
from finetune_pipeline.data.canaries import KINDS, make_canaries
from finetune_pipeline.data.clustering import basis
from finetune_pipeline.data.columns import fetch, group_hash, prompt_hash
from finetune_pipeline.data.ledger import SPLITS
from finetune_pipeline.data.sketches import loose_forms, similarities, sketch
from finetune_pipeline.data.templates import Templates
from finetune_pipeline.spec import TaskSpec

COVERED = "covered.npz"
PAIRS_SHOWN = 20
BETWEEN = (("train", "test"), ("validation", "test"), ("train", "validation"))
_PAIRS_AT_ONCE = 100_000
_CANARY_SOURCES = 64
_CLOSE = 1e-9


def certify(
    rows: np.ndarray,
    split: np.ndarray,
    prepared: Sequence[Path],
    templates: Templates,
    spec: TaskSpec,
    out: Path,
    earlier: Sequence[Path] = (),
) -> dict[str, Any]:
    """Compare all rows (CLEAN_ROW, [n]) that have a split (int8, place in SPLITS; negative: none).

    `prepared`: the clean stage's part folders, with the rows' texts and sketches. Writes ``covered.npz`` for the next
    certificate. Returns exact, near, semantic, group (pairs or groups), by_pair ({"train-test": {…}}), pairs (up to 20
    shown by id), threshold, rows, compared_anew (rows), canaries ({planted, found, by_kind, missed}).
    """
    there = np.flatnonzero(split >= 0)
    here, codes = rows[there], split[there].astype(np.int64)
    threshold = spec.data.near_duplicate_threshold
    texts = _Texts(prepared, here)
    sketches = _sketches(prepared, rows, there)
    fresh = _fresh(here, codes, basis(threshold, templates), earlier)
    near = _near(here, codes, texts, sketches, fresh, threshold, templates)
    by_pair = {f"{a}-{b}": Counter({"exact": 0, "near": 0, "semantic": 0, "group": 0}) for a, b in BETWEEN}
    shown: list[dict[str, Any]] = []
    for kind, pairs in (
        ("exact", _shared(here["prompt"], codes)),
        ("group", _shared(here["group"], codes, zero=False)),
    ):
        for i, j in pairs:
            name = _between(codes[i], codes[j])
            by_pair[name][kind] += 1
            shown.append(_show(here, name, kind, i, j, 1.0))
    for i, j, likeness in near:
        name = _between(codes[i], codes[j])
        by_pair[name]["near"] += 1
        shown.append(_show(here, name, "near", i, j, likeness))
    for i, j, likeness in _semantic(texts, codes, spec):
        name = _between(codes[i], codes[j])
        by_pair[name]["semantic"] += 1
        shown.append(_show(here, name, "semantic", i, j, likeness))
    np.savez(
        out / COVERED, basis=np.array(basis(threshold, templates)), prompt=here["prompt"], id=here["id"], split=codes
    )
    totals = {kind: sum(c[kind] for c in by_pair.values()) for kind in ("exact", "near", "semantic", "group")}
    return {
        **totals,
        "by_pair": {name: dict(counts) for name, counts in by_pair.items()},
        "pairs": shown[:PAIRS_SHOWN],
        "threshold": threshold,
        "rows": len(there),
        "compared_anew": int(fresh.sum()) if fresh is not None else len(there),
        "canaries": prove(here, codes, texts, sketches, threshold, templates),
    }


class _Texts:
    """User texts of rows, fetched when asked for."""

    def __init__(self, prepared: Sequence[Path], rows: np.ndarray) -> None:
        self.prepared, self.rows = list(prepared), rows

    def examples(self, which: np.ndarray) -> list[Any]:
        rows = self.rows[which]
        return fetch(self.prepared, rows["part"].astype(np.int64), rows["start"], rows["end"])

    def user_texts(self, which: np.ndarray) -> list[str]:
        return [e.user_text for e in self.examples(which)]


def _sketches(prepared: Sequence[Path], rows: np.ndarray, there: np.ndarray) -> np.ndarray:
    bounds = np.searchsorted(rows["part"], np.arange(len(prepared) + 1))
    pieces = []
    for number, folder in enumerate(prepared):
        mine = there[(there >= bounds[number]) & (there < bounds[number + 1])] - bounds[number]
        pieces.append(np.load(folder / "sketch.npy", mmap_mode="r")[mine])
    return np.concatenate(pieces) if pieces else np.zeros((0, 1), np.uint32)


def _fresh(rows: np.ndarray, codes: np.ndarray, wanted: str, earlier: Sequence[Path]) -> np.ndarray | None:
    """Which rows no earlier certificate covers with this prompt in this split; None: there is no earlier one."""
    for folder in earlier:
        if not (folder / COVERED).is_file():
            continue
        with np.load(folder / COVERED) as told:
            if str(told["basis"]) != wanted:
                continue
            known = np.sort(_mixed(told["prompt"], told["split"].astype(np.int64)))
        mine = _mixed(rows["prompt"], codes)
        at = np.searchsorted(known, mine)
        at[at == len(known)] = 0
        return known[at] != mine if len(known) else np.ones(len(rows), bool)
    return None


def _mixed(prompt: np.ndarray, codes: np.ndarray) -> np.ndarray:
    mixed: np.ndarray = (prompt ^ (codes.astype(np.uint64) + np.uint64(1))) * np.uint64(0x9E3779B97F4A7C15)
    return mixed ^ (mixed >> np.uint64(29))


def _near(
    rows: np.ndarray,
    codes: np.ndarray,
    texts: _Texts,
    sketches: np.ndarray,
    fresh: np.ndarray | None,
    threshold: float,
    templates: Templates,
) -> list[tuple[int, int, float]]:
    """Verified pairs across splits whose prompts differ; pairs of equal prompts are counted as exact."""
    if fresh is not None and not fresh.any():
        return []
    pairs = candidate_pairs(sketches, fresh, threshold)
    across = codes[pairs[:, 0]] != codes[pairs[:, 1]]
    pairs = pairs[across & (rows["prompt"][pairs[:, 0]] != rows["prompt"][pairs[:, 1]])]
    found = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = pairs[start : start + _PAIRS_AT_ONCE]
        needed, places = np.unique(part, return_inverse=True)
        likeness = similarities(loose_forms(texts.user_texts(needed), templates), places.reshape(-1, 2))
        for k in np.flatnonzero(likeness >= threshold - _CLOSE):
            found.append((int(part[k, 0]), int(part[k, 1]), float(likeness[k])))
    return found


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


def _semantic(texts: _Texts, codes: np.ndarray, spec: TaskSpec) -> list[tuple[int, int, float]]:
    """Suspects across splits by the embedding model of the spec; none without one."""
    if spec.data.semantic is None:
        return []
    from finetune_pipeline.data.semantic import suspects

    found = suspects(texts.user_texts(np.arange(len(codes))), spec.data.semantic)
    return [(i, j, float(s)) for i, j, s in found if codes[i] != codes[j]]


def prove(
    rows: np.ndarray,
    codes: np.ndarray,
    texts: _Texts,
    sketches: np.ndarray,
    threshold: float,
    templates: Templates,
) -> dict[str, Any]:
    """Plant canaries among the training rows of a copy, and look for them the way leaks are looked for.

    Returns planted, found, by_kind ({kind: [planted, found]}) and missed (names).
    """
    guarded = np.flatnonzero(codes != SPLITS.index("train"))
    chosen = guarded[np.argsort(rows["id"][guarded], kind="stable")[:_CANARY_SOURCES]]
    sources = texts.examples(chosen)
    canaries = make_canaries(sources, threshold, templates)
    forms = loose_forms([c.example.user_text for c in canaries], templates)
    both = np.concatenate([sketches[guarded], sketch(forms, threshold)])
    fresh = np.zeros(len(both), bool)
    fresh[len(guarded) :] = True
    pairs = candidate_pairs(both, fresh, threshold)
    pairs = pairs[(pairs[:, 0] < len(guarded)) & (pairs[:, 1] >= len(guarded))]
    needed, places = np.unique(pairs[:, 0], return_inverse=True)
    held = [*texts.user_texts(guarded[needed]), *(c.example.user_text for c in canaries)]
    places = np.stack([places.reshape(-1), pairs[:, 1] - len(guarded) + len(needed)], 1)
    likeness = similarities(loose_forms(held, templates), places)
    caught = {
        (int(pairs[k, 1]) - len(guarded), int(guarded[pairs[k, 0]]))
        for k in np.flatnonzero(likeness >= threshold - _CLOSE)
    }
    n = len(guarded)
    planted = np.concatenate([codes[guarded], np.full(len(canaries), SPLITS.index("train"))])
    prompts = [prompt_hash(c.example.user_text) for c in canaries]
    same = _shared(np.concatenate([rows["prompt"][guarded], np.array(prompts, np.uint64)]), planted)
    grouped = rows["group"][guarded].copy()
    place = {int(row): i for i, row in enumerate(guarded)}
    for canary in canaries:
        if canary.kind == "same_group":
            grouped[place[int(chosen[canary.source])]] = group_hash(canary.example.group)
    named = [group_hash(c.example.group) if c.kind == "same_group" else 0 for c in canaries]
    together = _shared(np.concatenate([grouped, np.array(named, np.uint64)]), planted, zero=False)
    alike = {"exact": {max(p) - n for p in same}, "same_group": {max(p) - n for p in together}}
    counts = {kind: [0, 0] for kind in KINDS}
    missed = []
    for number, canary in enumerate(canaries):
        source = int(chosen[canary.source])
        found = number in alike[canary.kind] if canary.kind in alike else (number, source) in caught
        counts[canary.kind][0] += 1
        counts[canary.kind][1] += found
        if not found:
            missed.append(canary.example.id)
    return {
        "planted": len(canaries),
        "found": len(canaries) - len(missed),
        "by_kind": {kind: pair for kind, pair in counts.items() if pair[0]},
        "missed": missed,
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
