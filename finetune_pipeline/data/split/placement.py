"""Assigns rows to splits: clusters stay together, labels are stratified, and a row never changes its split.

Units of alike rows are joined, the strongest links first. A unit never grows beyond a share of its label's rows and of
all rows, so that a chain cannot swallow a class: the weakest links are cut and counted. Nor are units joined that the
ledger holds in two splits.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.data.dedup.near_duplicates import components
from finetune_pipeline.data.dedup.row_table import CONTRADICTION, GONE, KEPT
from finetune_pipeline.data.examples import ORIGINS
from finetune_pipeline.data.split.alike import Links
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.spec import TaskSpec

NOWHERE, NOT_HUMAN, BRIDGE, LEFT = -1, -2, -3, -4
"""Why a kept row has no split: it is not kept; it is like a test row but not by a person; it is new and like rows of two
splits; it was in one before, and is now like a row of a split that must stay unseen."""
OF_LABEL, OF_ALL, SMALLEST = 0.2, 0.02, 8
"""Largest unit that links may form, as share of a label's rows and of all rows; eight rows are always allowed."""
_HUMAN = ORIGINS.index("human")
_TEST = SPLITS.index("test")
OUT = np.uint64(2**64 - 1)
PLACED = np.dtype(
    [
        ("unit", "<u8"),  # the name of the row's unit; OUT: the row is gone
        ("split", "<i1"),  # place in SPLITS, or a reason
        ("recorded", "<i1"),  # the split the ledger has to know of, for removed repeats too; -1: none
        ("bridged", "<u1"),  # for a BRIDGE or LEFT row the bit mask of the splits it is like
    ]
)
"""What is decided about a row. A removed row with a split stays in it after all: the row it repeats is a BRIDGE."""


def shares_of(spec: TaskSpec) -> dict[str, float]:
    validation, test = spec.split.validation, spec.split.test
    return {"train": 1 - validation - test, "validation": validation, "test": test}


def units_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(unit of every row (int64, -1: out), names of the units, ascending): clusters, joined where kept rows have one
    group or prompt."""
    unit = np.full(len(rows), -1, np.int64)
    alive = np.flatnonzero((rows["state"] != GONE) & (rows["state"] != CONTRADICTION))
    present = rows[alive]
    is_kept = present["state"] == KEPT
    ties = [_ties(present[name], is_kept & (present[name] != 0)) for name in ("group", "prompt")]
    joined = components(len(alive), np.concatenate([_ties(present["cluster"], np.ones(len(alive), bool)), *ties]))
    smallest = np.full(int(joined.max(initial=-1)) + 1, OUT)
    np.minimum.at(smallest, joined, present["cluster"])
    occupied = np.zeros(len(smallest), bool)  # units whose kept rows are all gone (dropped by reviewers) need no split
    occupied[joined[is_kept]] = True
    names = np.sort(smallest[occupied])
    unit[alive] = np.where(occupied[joined], np.searchsorted(names, smallest[joined]), -1)
    return unit, names


def _ties(value: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Pairs of rows (int64, [m, 2]) that connect rows with the same value."""
    order = np.flatnonzero(which)[np.argsort(value[which], kind="stable")]
    same = value[order[1:]] == value[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], 1)


@dataclass(frozen=True)
class Joined:
    """Units after joining.

    Attributes:
        unit: The new number of every old unit (int64), from 0.
        splits: For every new unit the bit mask of the splits the ledger holds its rows in.
        cut: Links not followed because a unit would have become too large.
        held: Links not followed because the ledger holds their rows in two splits.
    """

    unit: np.ndarray
    splits: np.ndarray
    cut: int
    held: int


def join(rows: np.ndarray, unit: np.ndarray, splits: np.ndarray, before: np.ndarray, links: Links) -> Joined:
    """Merge units along links.

    Args:
        rows: ROW, [n].
        unit: The unit of every row (int64; -1: out).
        splits: For every unit the bit mask of the splits the ledger holds its rows in.
        before: The split the ledger gives every row (int8; -1: none).
        links: The strongest first.
    """
    kept = (rows["state"] == KEPT) & (unit >= 0)
    size = np.bincount(unit[kept], minlength=len(splits)).tolist()
    label = rows["label"].astype(np.int64) + 1
    of_label = OF_LABEL * np.bincount(label[kept], minlength=1)
    most_of_row = np.maximum(SMALLEST, np.minimum(of_label[label], OF_ALL * kept.sum()))
    parent, mask = list(range(len(splits))), splits.tolist()

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    cut = held = 0
    ends = np.stack([links.left, links.right], 1)
    ends = ends[(unit[ends] >= 0).all(1)]
    for left, right in ends.tolist():
        a, b = sorted((root(int(unit[left])), root(int(unit[right]))))
        if a == b:
            continue
        both_masks = mask[a] | mask[b]
        too_large = size[a] + size[b] > min(most_of_row[left], most_of_row[right])
        if not too_large and not both_masks & (both_masks - 1):  # at most one split
            parent[b], size[a], mask[a] = a, size[a] + size[b], both_masks
            continue
        cut += bool(too_large)
        held += bool(not too_large and mask[a] and mask[b])
        for row, neighbour in ((left, right), (right, left)):  # a new unit goes where its neighbour is all the same
            if not mask[root(int(unit[row]))] and before[neighbour] >= 0:
                mask[root(int(unit[row]))] = 1 << int(before[neighbour])
    roots, number = np.unique(np.array([root(i) for i in range(len(splits))], np.int64), return_inverse=True)
    return Joined(number, np.array(mask, np.uint8)[roots], cut, held)


def place(rows: np.ndarray, before: np.ndarray, spec: TaskSpec, links: Links) -> tuple[np.ndarray, int, Joined]:
    """Assign each kept row the split that it, or a row of its unit, had before; else one by `spec.split`. Returns (PLACED, [n];
    number of units; what became of the links).

    New units come in the order of sha256(seed, name), label by label; each goes to the split farthest below its share
    of that label's rows (``by: time``: the newest units fill the test, then validation). Test takes only units all of
    whose rows are by people.

    Args:
        rows: ROW, [n].
        before: The split every row was given earlier (int8, place in SPLITS; -1: none).
    """
    unit, names = units_of(rows)
    before = np.where(unit >= 0, before, -1).astype(np.int8)
    splits = np.zeros(len(names), np.uint8)
    has_split = before >= 0
    np.bitwise_or.at(splits, unit[has_split], (1 << before[has_split]).astype(np.uint8))
    joined = join(rows, unit, splits, before, links)
    smallest = np.full(len(joined.splits), OUT)
    np.minimum.at(smallest, joined.unit, names)
    names, splits, unit = smallest, joined.splits, np.append(joined.unit, -1)[unit]
    placed = np.zeros(len(rows), PLACED)
    placed["unit"], placed["split"], placed["recorded"] = OUT, NOWHERE, -1
    if not len(names):
        return placed, 0, joined
    kept = (rows["state"] == KEPT) & (unit >= 0)
    split = np.full(len(rows), NOWHERE, np.int8)
    home = np.full(len(names), -1, np.int8)
    for code in range(len(SPLITS)):
        home[splits == 1 << code] = code
    settled = kept & (home[unit] >= 0)
    split[settled] = home[unit[settled]]
    split[settled & (split == _TEST) & (rows["origin"] != _HUMAN)] = NOT_HUMAN
    several = kept & (splits[unit] > 0) & (home[unit] < 0)
    split[several] = np.where(before[several] >= 0, before[several], BRIDGE)
    restored = _restored(rows, unit, before, split)
    split[restored] = before[restored]
    fresh = np.flatnonzero(splits == 0)
    home[fresh] = _assign(rows, unit, names, fresh, split, spec)
    new = kept & (splits[unit] == 0)
    split[new] = home[unit[new]]
    inside = unit >= 0
    whole = inside & (home[unit] >= 0)  # removed repeats belong to the unit's split too
    placed["unit"][inside] = names[unit[inside]]
    placed["split"] = split
    placed["recorded"] = np.where(whole, home[unit], np.maximum(split, -1))
    placed["bridged"] = np.where(split == BRIDGE, splits[unit], 0)
    return placed, len(names), joined


def _restored(rows: np.ndarray, unit: np.ndarray, before: np.ndarray, split: np.ndarray) -> np.ndarray:
    """For each unit with a BRIDGE row: one removed row for every split that was in it and has no kept row there now.
    Without this a new row that is like a train row and like a test row would take the place of both, and then be
    refused."""
    torn = np.unique(unit[split == BRIDGE])
    inside = np.flatnonzero(np.isin(unit, torn) & (unit >= 0))
    covered = {(int(unit[i]), int(split[i])) for i in inside if split[i] >= 0}
    chosen = []
    for i in inside[rows["state"][inside] != KEPT].tolist():
        name = (int(unit[i]), int(before[i]))
        if before[i] >= 0 and name not in covered:
            covered.add(name)
            chosen.append(i)
    return np.array(chosen, np.int64)


def _assign(
    rows: np.ndarray, unit: np.ndarray, names: np.ndarray, fresh: np.ndarray, split: np.ndarray, spec: TaskSpec
) -> np.ndarray:
    """A split (int8) for every new unit; deficits count what is placed already."""
    if not len(fresh):
        return np.zeros(0, np.int8)
    shares, kept = np.array(list(shares_of(spec).values())), (rows["state"] == KEPT) & (unit >= 0)
    size = np.bincount(unit[kept], minlength=len(names))[fresh]
    human = np.bincount(unit[kept & (rows["origin"] != _HUMAN)], minlength=len(names))[fresh] == 0
    placed = np.zeros((len(spec.labels) + 1, len(SPLITS)), np.int64)
    assigned = split >= 0
    np.add.at(placed, (rows["label"][assigned].astype(np.int64) + 1, split[assigned]), 1)
    if spec.split.by == "time":
        newest = np.full(len(names), -np.inf)
        np.maximum.at(newest, unit[kept], np.nan_to_num(rows["time"][kept], nan=-np.inf))
        order = np.lexsort((names[fresh], -newest[fresh])).tolist()
        return _newest(order, size, human, shares * (placed.sum() + size.sum()) - placed.sum(0))
    stratum = _strata(rows, unit, kept, len(names))[fresh]
    chosen = np.zeros(len(fresh), np.int8)
    totals = placed.sum(1) + np.bincount(stratum, size, minlength=len(placed)).astype(np.int64)
    placed_counts, target = placed.tolist(), (shares[None, :] * totals[:, None]).tolist()
    strata, sizes, may_test = stratum.tolist(), size.tolist(), human.tolist()
    hashes = [hashlib.sha256(f"{spec.split.seed}:{name:016x}".encode()).digest() for name in names[fresh].tolist()]
    for i in sorted(range(len(fresh)), key=hashes.__getitem__):
        targets, filled = target[strata[i]], placed_counts[strata[i]]
        lacking = [a - b for a, b in zip(targets, filled, strict=True)][: 3 if may_test[i] else 2]
        chosen[i] = best = lacking.index(max(lacking))
        filled[best] += sizes[i]
    return chosen


def _strata(rows: np.ndarray, unit: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    """The commonest label (+ 1; 0: none) among each unit's kept rows, the first in the spec's order on a tie."""
    labels = rows["label"][kept].astype(np.int64) + 1
    width = int(labels.max(initial=0)) + 1
    pair, many = np.unique(unit[kept] * width + labels, return_counts=True)
    owner, label = pair // width, pair % width
    order = np.lexsort((label, -many, owner))
    first = np.unique(owner[order], return_index=True)
    stratum = np.zeros(count, np.int64)
    stratum[first[0]] = label[order][first[1]]
    return stratum


def _newest(order: list[int], size: np.ndarray, human: np.ndarray, lacking: np.ndarray) -> np.ndarray:
    """The newest new units (first in `order`) fill what the test lacks, the next what validation lacks, the rest is for
    training."""
    chosen = np.zeros(len(order), np.int8)
    for i in order:
        if human[i] and lacking[_TEST] >= size[i] / 2:
            chosen[i] = _TEST
        elif lacking[1] >= size[i] / 2:
            chosen[i] = 1
        lacking[chosen[i]] -= size[i]
    return chosen
