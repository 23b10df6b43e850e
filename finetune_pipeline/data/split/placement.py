"""Assigns rows to splits: clusters stay together, labels are stratified, and a row never changes its split.

Units of similar rows are joined, the strongest links first. A unit never grows beyond a share of its label's rows and of all
rows, so a chain cannot swallow a class: the weakest links are cut and counted. Units that the ledger has in two splits are not
joined either.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from finetune_pipeline.data.dedup.near_duplicates import components
from finetune_pipeline.data.dedup.row_table import CONTRADICTION, GONE, KEPT
from finetune_pipeline.data.examples import ORIGINS, Example
from finetune_pipeline.data.split.alike import Links
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.spec import TaskSpec

NOWHERE, NOT_HUMAN, BRIDGE, LEFT, LIKE_TEST = -1, -2, -3, -4, -5
"""Why a row has no split: it is not kept; it is similar to a test row but not written by a person, or, with a teacher, to a
validation row but synthetic; it is new and similar to rows
of two splits; it left its split because it is now similar to a row of a split that must stay unseen; by time, it is like a newer
row of the test or of validation (see time_order.py), or it is like a row of the files that split.test names."""
OF_LABEL, OF_ALL, SMALLEST = 0.2, 0.02, 8
"""Largest unit that links may form, as a share of a label's rows and of all rows; SMALLEST rows are always allowed."""
HUMAN, SYNTHETIC = ORIGINS.index("human"), ORIGINS.index("synthetic")
NEW, SEVERAL = -1, len(SPLITS)
"""Home of a unit without rows in the ledger, and of one whose rows the ledger has in more than one split."""
_TRAIN, _VALIDATION, _TEST = range(len(SPLITS))
OUT = np.uint64(2**64 - 1)
PLACED = np.dtype(
    [
        ("unit", "<u8"),  # the name of the row's unit; OUT: the row is gone
        ("split", "<i1"),  # index in SPLITS, or a reason
        ("recorded", "<i1"),  # the split to record in the ledger, also for removed repeats; -1: none
    ]
)
"""The decision about a row."""


def shares_of(spec: TaskSpec) -> dict[str, float]:
    """Return the wanted share of each split; of the rows outside the test if `split.test` names its files."""
    validation, test = spec.split.validation, spec.split.test_share or 0.0
    return {"train": 1 - validation - test, "validation": validation, "test": test}


def expected_rows(spec: TaskSpec, rows: Sequence[Example]) -> tuple[int, int]:
    """Return how many validation and test rows are expected of clean rows. With a teacher only people's count: they fill both by
    their shares."""
    judging = [row for row in rows if spec.teacher is None or row.origin == ORIGINS[HUMAN]]
    validation, test = len(rows) * spec.split.validation, len(rows) * (spec.split.test_share or 0.0)
    if spec.split.test_share is None:
        test_rows = sum(spec.split.is_test_file(str(row.source["file"])) for row in judging)
        return min(round(validation), len(judging) - test_rows), test_rows
    scale = min(1.0, len(judging) / max(1.0, validation + test))
    return round(scale * validation), round(scale * test)


def units_of(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join clusters whose kept rows share a group or a prompt into units. Returns (unit of every row (int64, -1: out), names of
    the units, ascending)."""
    unit = np.full(len(rows), -1, np.int64)
    alive = np.flatnonzero((rows["state"] != GONE) & (rows["state"] != CONTRADICTION))
    present = rows[alive]
    is_kept = present["state"] == KEPT
    pairs = [_pairs_with_equal(present["cluster"], np.ones(len(alive), bool))]
    pairs += [_pairs_with_equal(present[name], is_kept & (present[name] != 0)) for name in ("group", "prompt")]
    joined = components(len(alive), np.concatenate(pairs))
    smallest = np.full(int(joined.max(initial=-1)) + 1, OUT)
    np.minimum.at(smallest, joined, present["cluster"])
    occupied = np.zeros(len(smallest), bool)  # a unit without kept rows (reviewers dropped them) needs no split
    occupied[joined[is_kept]] = True
    names = np.sort(smallest[occupied])
    unit[alive] = np.where(occupied[joined], np.searchsorted(names, smallest[joined]), -1)
    return unit, names


def _pairs_with_equal(value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return pairs of rows (int64, [m, 2]) that connect all rows with the same value. mask: rows that count (bool)."""
    order = np.flatnonzero(mask)[np.argsort(value[mask], kind="stable")]
    same = value[order[1:]] == value[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], 1)


@dataclass(frozen=True)
class Joined:
    """Units after joining.

    Attributes:
        unit: The new number of every old unit (int64), from 0.
        home: The split of every new unit in the ledger, NEW or SEVERAL (int8).
        cut: Number of links not followed because a unit would have become too large.
        held: Number of links not followed because their rows are in two splits in the ledger.
    """

    unit: np.ndarray
    home: np.ndarray
    cut: int
    held: int


def homes(unit: np.ndarray, before: np.ndarray, count: int) -> np.ndarray:
    """Return the split in the ledger of each of this number of units: an index in SPLITS, NEW or SEVERAL (int8). unit: of every row
    (int64; -1: out). before: every row's split in the ledger (int8; -1: none)."""
    recorded = np.flatnonzero((unit >= 0) & (before >= 0))
    first, last = np.full(count, SEVERAL, np.int8), np.full(count, NEW, np.int8)
    np.minimum.at(first, unit[recorded], before[recorded])
    np.maximum.at(last, unit[recorded], before[recorded])
    return np.where(first < last, SEVERAL, last).astype(np.int8)


def join(rows: np.ndarray, unit: np.ndarray, home: np.ndarray, before: np.ndarray, links: Links) -> Joined:
    """Merge units along links.

    Args:
        rows: ROW, [n].
        unit: The unit of every row (int64; -1: out).
        home: The split of every unit in the ledger (see :func:`homes`).
        before: Every row's split in the ledger (int8; -1: none).
        links: The strongest first.
    """
    is_kept = (rows["state"] == KEPT) & (unit >= 0)
    size = np.bincount(unit[is_kept], minlength=len(home)).tolist()
    label = rows["label"].astype(np.int64) + 1
    most_of_label = OF_LABEL * np.bincount(label[is_kept], minlength=1)
    largest_unit = np.maximum(SMALLEST, np.minimum(most_of_label[label], OF_ALL * is_kept.sum()))
    parent, split = list(range(len(home))), home.tolist()

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
        both_recorded = split[a] != NEW and split[b] != NEW
        joint = SEVERAL if both_recorded and split[a] != split[b] else max(split[a], split[b])
        too_large = size[a] + size[b] > min(largest_unit[left], largest_unit[right])
        if not too_large and joint != SEVERAL:
            parent[b], size[a], split[a] = a, size[a] + size[b], joint
            continue
        if too_large:
            cut += 1
        elif both_recorded:
            held += 1
        for row, neighbour in ((left, right), (right, left)):  # a new unit still goes to its neighbour's split
            own = root(int(unit[row]))
            if split[own] == NEW and before[neighbour] >= 0:
                split[own] = int(before[neighbour])
    roots, number = np.unique(np.array([root(i) for i in range(len(home))], np.int64), return_inverse=True)
    return Joined(number, np.array(split, np.int8)[roots], cut, held)


def place(
    rows: np.ndarray, before: np.ndarray, spec: TaskSpec, links: Links, in_test_file: np.ndarray | None = None
) -> tuple[np.ndarray, int, Joined]:
    """Assign each kept row the split that it, or a row of its unit, had before; else one by `spec.split`. Returns (PLACED, [n];
    number of units; the joined units).

    New units come in the order of sha256(seed, name), label by label. Each goes to the split farthest below its share of
    that label's rows. The test takes only units whose rows are all written by people. With a teacher, people's rows fill test and
    validation before training gets any, and synthetic rows are for training only (see :func:`seal_from_models`). `split.by: time`
    has its own placement (see time_order.py).

    Args:
        rows: ROW, [n].
        before: Every row's earlier split (int8, index in SPLITS; -1: none).
        in_test_file: Rows of the files that `split.test` names (bool). Those without an earlier split are the test, and rows
            like them have no split (LIKE_TEST).
    """
    unit, names = units_of(rows)
    before = np.where(unit >= 0, before, -1).astype(np.int8)
    if in_test_file is not None:
        in_test_file = np.where(before >= 0, before == _TEST, _with_heirs(rows, unit, in_test_file))
        before = np.where(in_test_file & (unit >= 0), _TEST, before).astype(np.int8)
    joined = join(rows, unit, homes(unit, before, len(names)), before, links)
    home, unit_names = joined.home, np.full(len(joined.home), OUT)
    np.minimum.at(unit_names, joined.unit, names)
    names, unit = unit_names, np.append(joined.unit, -1)[unit]
    placed = np.zeros(len(rows), PLACED)
    placed["unit"], placed["split"], placed["recorded"] = OUT, NOWHERE, -1
    if not len(names):
        return placed, 0, joined
    is_kept = (rows["state"] == KEPT) & (unit >= 0)
    split = np.full(len(rows), NOWHERE, np.int8)
    # units with one split in the ledger: their rows join it
    settled = is_kept & (home[unit] >= 0) & (home[unit] != SEVERAL)
    split[settled] = home[unit[settled]]
    if in_test_file is not None:
        split[settled & (split == _TEST) & ~in_test_file] = LIKE_TEST
    split[settled & (split == _TEST) & (rows["origin"] != HUMAN)] = NOT_HUMAN
    # units with several: their rows stay where they were, and new rows are refused
    torn = is_kept & (home[unit] == SEVERAL)
    split[torn] = np.where(before[torn] >= 0, before[torn], BRIDGE)
    # new units
    new_units = np.flatnonzero(home == NEW)
    is_new = is_kept & (home[unit] == NEW)
    home[new_units] = _assign(rows, unit, names, new_units, split, spec)
    split[is_new] = home[unit[is_new]]
    has_unit = unit >= 0
    has_home = has_unit & (home[unit] != SEVERAL)  # removed repeats are in the unit's split too
    placed["unit"][has_unit] = names[unit[has_unit]]
    placed["split"] = split
    placed["recorded"] = np.where(has_home, home[unit], np.maximum(split, -1))
    if in_test_file is not None:
        placed["recorded"][(placed["recorded"] == _TEST) & ~in_test_file] = -1
    return placed, len(names), joined


def seal_from_models(rows: np.ndarray, placed: np.ndarray, spec: TaskSpec) -> None:
    """Take synthetic rows out of the test, and with a teacher out of validation too, whatever put them there (NOT_HUMAN)."""
    sealed = placed["split"] == _TEST
    if spec.teacher is not None:
        sealed |= placed["split"] == _VALIDATION
    placed["split"][sealed & (rows["origin"] == SYNTHETIC)] = NOT_HUMAN


def _with_heirs(rows: np.ndarray, unit: np.ndarray, in_test_file: np.ndarray) -> np.ndarray:
    """Add the kept rows of other files whose unit holds removed duplicates of a test file, and no kept row of one: they replace
    them."""
    is_kept, count = rows["state"] == KEPT, int(unit.max(initial=-1)) + 1
    named, represented = np.zeros(count + 1, bool), np.zeros(count + 1, bool)  # the last is of rows without a unit
    named[unit[in_test_file]] = True
    represented[unit[in_test_file & is_kept]] = True
    with_heirs: np.ndarray = in_test_file | (is_kept & (unit >= 0) & (named & ~represented)[unit])
    return with_heirs


def _assign(
    rows: np.ndarray, unit: np.ndarray, names: np.ndarray, new_units: np.ndarray, split: np.ndarray, spec: TaskSpec
) -> np.ndarray:
    """Choose a split (int8) for every new unit by what each split lacks; rows with a split count."""
    if not len(new_units):
        return np.zeros(0, np.int8)
    shares, is_kept = np.array(list(shares_of(spec).values())), (rows["state"] == KEPT) & (unit >= 0)

    def count(mask: np.ndarray) -> np.ndarray:
        counts: np.ndarray = np.bincount(unit[is_kept & mask], minlength=len(names))[new_units]
        return counts

    by_people, others = count(rows["origin"] == HUMAN), count(rows["origin"] != HUMAN)
    size, may_be_test = by_people + others, others == 0
    if spec.teacher is not None:  # synthetic rows beside a person's leave the sealed splits
        may_be_test = (by_people > 0) & (others == count(rows["origin"] == SYNTHETIC))
        size = np.where(by_people > 0, by_people, size)
    placed = np.zeros((len(spec.labels) + 1, len(SPLITS)), np.int64)
    # a test of named files takes nothing from the shares of the others
    assigned = (split >= 0) if spec.split.test_share is not None else (split >= 0) & (split != _TEST)
    np.add.at(placed, (rows["label"][assigned].astype(np.int64) + 1, split[assigned]), 1)
    stratum = _strata(rows, unit, is_kept, len(names))[new_units]
    chosen = np.zeros(len(new_units), np.int8)
    totals = placed.sum(1) + np.bincount(stratum, size, minlength=len(placed)).astype(np.int64)
    filled_by_stratum, target_by_stratum = placed.tolist(), (shares[None, :] * totals[:, None]).tolist()
    strata, sizes = stratum.tolist(), size.tolist()
    seed = spec.split.seed
    hashes = b"".join([hashlib.sha256(b"%d:%016x" % (seed, name)).digest() for name in names[new_units].tolist()])
    for i in np.lexsort(np.frombuffer(hashes, ">u8").reshape(-1, 4).T[::-1]).tolist():
        targets, filled = target_by_stratum[strata[i]], filled_by_stratum[strata[i]]
        lacking = [wanted - have for wanted, have in zip(targets, filled, strict=True)]
        if not may_be_test[i]:
            lacking[_TEST] = -np.inf
        if spec.teacher is not None:
            # by shares: the first rows of people go to both, not all to the larger one
            lacking = [lack / wanted if wanted else lack for lack, wanted in zip(lacking, targets, strict=True)]
            sealed = by_people[i] > 0 and max(lacking[_VALIDATION:]) > 0
            lacking[_TRAIN] = -np.inf if sealed else np.inf
        chosen[i] = best = lacking.index(max(lacking))
        filled[best] += sizes[i]
    return chosen


def _strata(rows: np.ndarray, unit: np.ndarray, is_kept: np.ndarray, count: int) -> np.ndarray:
    """Return the most common label (+ 1; 0: none) of each unit's kept rows; on a tie the first in the spec's order."""
    labels = rows["label"][is_kept].astype(np.int64) + 1
    width = int(labels.max(initial=0)) + 1
    pair, counts = np.unique(unit[is_kept] * width + labels, return_counts=True)
    owner, label = pair // width, pair % width
    order = np.lexsort((label, -counts, owner))
    owners, first = np.unique(owner[order], return_index=True)
    stratum = np.zeros(count, np.int64)
    stratum[owners] = label[order][first]
    return stratum
