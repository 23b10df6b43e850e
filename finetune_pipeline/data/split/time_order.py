"""Splits by time: the newest rows become the test, those before them validation, the older ones training.

Time decides for each row by itself. An older row that shares a prompt, a cluster or a declared group with a row of the test leaves
training, and so does one that repeats a test row; training rows leave for validation rows of their unit, too. A row keeps its split
in later rounds: the test then holds rows that are older than the training rows of a later round.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from finetune_pipeline.data.dedup.row_table import KEPT
from finetune_pipeline.data.split.alike import REPEATS, Links
from finetune_pipeline.data.split.ledger import SPLITS, rounds_of
from finetune_pipeline.data.split.placement import HUMAN, LIKE_TEST, NOWHERE, OUT, PLACED, shares_of, units_of
from finetune_pipeline.spec import TaskSpec

_TRAIN, _VALIDATION, _TEST = range(len(SPLITS))


@dataclass(frozen=True)
class TimeOrder:
    """How well time separates training from the test.

    Attributes:
        newest_train: Time of the newest training row (ISO 8601; empty: none has a time).
        oldest_test: Time of the oldest test row.
        misplaced: Training rows newer than the oldest test row of their round. There must be none.
        not_human: Such rows that no person wrote: they cannot be in the test.
        later_rounds: Training rows newer than the oldest test row, which is of an earlier round.
        undated: Training rows without a time.
        left: Rows that left training or validation for a row of a newer split.
        train: All training rows.
    """

    newest_train: str
    oldest_test: str
    misplaced: int
    not_human: int
    later_rounds: int
    undated: int
    left: int
    train: int


def place_by_time(rows: np.ndarray, before: np.ndarray, spec: TaskSpec, links: Links) -> tuple[np.ndarray, int]:
    """Assign each kept row the split it had before (int8; -1: none), else one by its time. Returns (PLACED, [n]; number of
    units)."""
    unit, names = units_of(rows)
    placed = np.zeros(len(rows), PLACED)
    placed["unit"], placed["split"], placed["recorded"] = OUT, NOWHERE, -1
    if not len(names):
        return placed, 0
    is_kept, has_unit = (rows["state"] == KEPT) & (unit >= 0), unit >= 0
    split = np.where(is_kept, before, NOWHERE).astype(np.int8)
    split[_heirs_of_test_rows(unit, is_kept, before)] = _TEST
    counts = np.array([(is_kept & (split == code)).sum() for code in range(len(SPLITS))])
    lacking = np.array(list(shares_of(spec).values())) * is_kept.sum() - counts
    new = np.flatnonzero(is_kept & (split < 0))
    age = -np.nan_to_num(rows["time"][new], nan=-np.inf)
    for row in new[np.lexsort((rows["id"][new], age))].tolist():  # the newest first
        if rows["origin"][row] == HUMAN and lacking[_TEST] >= 0.5:
            split[row] = _TEST
        else:
            split[row] = _VALIDATION if lacking[_VALIDATION] >= 0.5 else _TRAIN
        lacking[split[row]] -= 1
    newest_of_unit = np.full(len(names), -1, np.int8)
    np.maximum.at(newest_of_unit, unit[is_kept], split[is_kept])
    placed["unit"][has_unit] = names[unit[has_unit]]
    placed["recorded"][has_unit] = np.where(is_kept, split, newest_of_unit[unit])[has_unit]
    placed["recorded"] = np.where(before >= 0, before, placed["recorded"])
    leaving = is_kept & (split < newest_of_unit[unit])
    for row, neighbour in ((links.left, links.right), (links.right, links.left)):
        repeats = (links.strength >= REPEATS) & (split[row] == _TRAIN) & (split[neighbour] == _TEST)
        leaving[row[repeats]] = True
    placed["split"] = np.where(leaving, LIKE_TEST, split)
    return placed, len(names)


def _heirs_of_test_rows(unit: np.ndarray, is_kept: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Choose the kept rows without a split whose unit was in the test with rows that they now replace as duplicates."""
    held, was_test = (np.zeros(int(unit.max()) + 1, bool) for _ in range(2))
    held[unit[is_kept & (before >= 0)]] = True
    was_test[unit[(unit >= 0) & ~is_kept & (before == _TEST)]] = True
    return np.flatnonzero(is_kept & (before < 0) & was_test[unit] & ~held[unit])


def time_order(rows: np.ndarray, placed: np.ndarray, ledger: Path) -> TimeOrder:
    """Compare the times of training and test rows, independently of the placement. The round of a row
    is that of its first assignment; rows without one are of the next round."""
    split, time = placed["split"], rows["time"]
    train, test = np.flatnonzero(split == _TRAIN), np.flatnonzero(split == _TEST)
    rounds = rounds_of(ledger, rows["id"], rows["prompt"])
    first_round = np.full(len(rows), rounds.max(initial=0))
    _, unit = np.unique(placed["unit"], return_inverse=True)
    np.minimum.at(first_round, unit, rounds)  # a test row may have replaced a duplicate of an earlier round
    oldest = np.full(int(rounds.max(initial=0)) + 1, np.inf)
    dated_test = test[~np.isnan(time[test])]
    np.minimum.at(oldest, first_round[unit[dated_test]], time[dated_test])
    is_newer = time[train] > oldest.min()  # never true without a time
    is_newer_in_round = time[train] > oldest[rounds[train]]
    is_human = rows["origin"][train] == HUMAN
    return TimeOrder(
        _iso(np.nanmax(time[train])) if not np.isnan(time[train]).all() else "",
        _iso(oldest.min()) if len(dated_test) else "",
        int((is_newer_in_round & is_human).sum()),
        int((is_newer & ~is_human).sum()),
        int((is_newer & ~is_newer_in_round & is_human).sum()),
        int(np.isnan(time[train]).sum()),
        int((split == LIKE_TEST).sum()),
        len(train),
    )


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()
