"""The split ledger: an append-only record of every assignment, so that a row never changes its split."""

import os
from pathlib import Path

import numpy as np

from finetune_pipeline.engine.files import DamagedFile, hold, sync_folder
from finetune_pipeline.faults import OutsideError

SPLITS = ("train", "validation", "test")
LEDGER = "splits"
"""The folder of the first ledger of a task; later ones are called splits-2, splits-3 …"""
ENTRY = np.dtype([("id", "<u8"), ("key", "<u8"), ("cluster", "<u8"), ("split", "<u1")])
"""One assignment: a row's id, its key (the hash of its prompt), the cluster it was in, the split's index in SPLITS."""


def split_of(entries: np.ndarray, ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the last split (int8, index in SPLITS; -1: none) of every row in a ledger, found by key, else by id. The id
    survives a change of the scrubbing rules, the key a change of the answer or of the system prompt."""
    by_key = _last(entries, "key", keys)
    return np.where(by_key >= 0, by_key, _last(entries, "id", ids))


def _last(entries: np.ndarray, name: str, values: np.ndarray) -> np.ndarray:
    """Return the split of the latest entry with each value in this field; -1: none."""
    splits = np.full(len(values), -1, np.int8)
    if len(entries):
        order = np.argsort(entries[name], kind="stable")
        ordered = entries[name][order]
        at = np.searchsorted(ordered, values, side="right") - 1
        hit = (at >= 0) & (ordered[at] == values)
        splits[hit] = entries["split"][order[at[hit]]]
    return splits


_BEGUN = "begun_by_restart"


def ledger_name(state: Path, restart: bool) -> str:
    """Return the name of the ledger for a run: the newest in the task's state folder, or a new one if `split.restart` was set
    since. :func:`mark_begun` marks a ledger that a restart began, so a `restart` that stays set has no further effect; once it is
    unset, this function removes the mark."""
    newest = max([1, *(int(p.name.partition("-")[2] or 1) for p in state.glob(f"{LEDGER}*") if p.is_dir())])
    folder = state / (LEDGER if newest == 1 else f"{LEDGER}-{newest}")
    if not restart:
        (folder / _BEGUN).unlink(missing_ok=True)
        return folder.name
    begun = (folder / _BEGUN).exists() or not any(folder.glob("*.npy"))
    return folder.name if begun else f"{LEDGER}-{newest + 1}"


def mark_begun(ledger: Path) -> None:
    """Record that `split.restart` has started this ledger."""
    ledger.mkdir(parents=True, exist_ok=True)
    (ledger / _BEGUN).touch()


def read_ledger(folder: Path) -> np.ndarray:
    """Read all assignments (ENTRY, [n]) in their order; none if there is no folder. Raises DamagedFile for a damaged file,
    because assignments must not be guessed."""
    parts = [np.zeros(0, ENTRY)]
    for path in sorted(folder.glob("*.npy")):
        try:
            part = np.load(path, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DamagedFile(f"{path}: not readable ({error}); restore the file from a backup") from error
        if part.dtype != ENTRY or (len(part) and part["split"].max() >= len(SPLITS)):
            raise DamagedFile(f"{path}: not a split ledger; restore it from a backup")
        parts.append(part)
    return np.concatenate(parts)


def rounds_of(folder: Path, ids: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return the round (int64, from 0) in which each row was assigned its split; the next one for new rows."""
    files = sorted(folder.glob("*.npy"))
    rounds = np.full(len(ids), len(files))
    for number, path in reversed(list(enumerate(files))):
        entries = np.load(path, allow_pickle=False)
        rounds[np.isin(ids, entries["id"]) | np.isin(keys, entries["key"])] = number
    return rounds


def record_assignments(assignments: np.ndarray, folder: Path) -> int:
    """Add assignments (ENTRY, [n]) of a split to the ledger: all or nothing, durable on return, safe to repeat and to run
    from two processes. Returns the number of added entries.

    Raises OutsideError if the ledger has another split for one of the rows. Then two runs have split the same state of the
    ledger, and the later one must be repeated.
    """
    with hold(folder / ".lock"):
        ledger = read_ledger(folder)
        fields = ["id", "key", "split"]
        listed = set(ledger[fields].tolist())
        new = assignments[[row not in listed for row in assignments[fields].tolist()]]
        before = split_of(ledger, new["id"], new["key"])
        moved = np.flatnonzero((before >= 0) & (before != new["split"]))
        if len(moved):
            moves = ((new[i], before[i]) for i in moved[:5])
            texts = (f"{row['id']:016x} was in {SPLITS[old]}, now {SPLITS[row['split']]}" for row, old in moves)
            reason = "Another run has split the task in the meantime; run it again"
            raise OutsideError(f"{len(moved)} rows would move between splits: {'; '.join(texts)}. {reason}")
        if len(new):
            number = 1 + max([0, *(int(p.stem) for p in folder.glob("*.npy"))])
            # renamed in one step; a dying process leaves only a temporary name, which the next one reuses
            temporary = folder / f".{number:06d}.npy.tmp"
            with temporary.open("wb") as out:
                np.save(out, new)
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, folder / f"{number:06d}.npy")
            sync_folder(folder)
    return len(new)
