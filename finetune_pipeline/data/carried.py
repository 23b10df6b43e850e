"""What an earlier split decided and certified, and how few rows a grown set needs looked at besides.

The placement of a unit depends on its own rows, on the ledger, and, if it is new, on how many rows lie where already. So a
row keeps what it got where nothing has changed for its unit: :func:`touched` finds the rows for which that is not so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finetune_pipeline.artifacts import digest_file, read_json, write_json
from finetune_pipeline.data.deciding import TABLE
from finetune_pipeline.data.growth import Growth, grown, isin
from finetune_pipeline.data.ledger import Ledger, last_recorded
from finetune_pipeline.data.placement import OUT, PLACED

PLACED_FILE = "placed.npy"
LEAKAGE = "leakage.json"
BASIS = "basis.json"
_DECIDES = ("cluster", "state", "label")
"""What placement depends on of a row besides what its part says."""


@dataclass(frozen=True)
class Carried:
    """An earlier split of part of the rows: `growth` from its rows (CLEAN_ROW, `rows`) to the present ones; `placed`
    (PLACED, [n]) what it says of them (new rows: OUT, no split); `units`: how many it had."""

    growth: Growth
    rows: np.ndarray
    placed: np.ndarray
    units: int


def write_basis(out: Path, basis: str, parts: Sequence[tuple[str, int]], units: int) -> None:
    """Note what :func:`carried` asks of a splits folder."""
    write_json(out / BASIS, {"basis": basis, "parts": [list(part) for part in parts], "units": units}, durable=False)


def carried(
    earlier: Sequence[Path], basis: str, parts: Sequence[tuple[str, int]], ledger: Ledger, folder: Path
) -> Carried | None:
    """The first of the earlier splits that can be built upon, or None.

    It must have been made and certified on the same `basis`, found no leak and every planted one, its parts (key, rows)
    must all be there still in their order, and it must be the last to have told the ledger (in `folder`) anything.
    """
    last = last_recorded(folder, len(ledger.entries))
    for splits in earlier if last else ():
        if not (splits / BASIS).is_file() or not (splits / LEAKAGE).is_file():
            continue
        told, certificate = read_json(splits / BASIS), read_json(splits / LEAKAGE)
        sound = not any(certificate[kind] for kind in ("exact", "near", "group"))
        sound = sound and 0 < certificate["canaries"]["planted"] == certificate["canaries"]["found"]
        growth = grown([(key, rows) for key, rows in told["parts"]], parts)
        if told["basis"] != basis or not sound or growth is None or name_of(splits) != last:
            continue
        before = np.load(splits / PLACED_FILE)
        placed = np.zeros(len(growth.old), PLACED)
        placed["unit"], placed["split"], placed["told"] = OUT, -1, -1
        for start, was, count in growth.runs:
            placed[start : start + count] = before[was : was + count]
        return Carried(growth, np.load(splits / TABLE, mmap_mode="r"), placed, told["units"])
    return None


def name_of(splits: Path) -> str:
    """What the ledger calls the assignments of a splits folder."""
    return digest_file(splits / PLACED_FILE)


def touched(rows: np.ndarray, before: Carried) -> np.ndarray:
    """Rows (int64, ascending; of CLEAN_ROW, [n]) that are new or were changed, and all that share a unit with one, now
    or then: the smallest such set that no cluster, former unit, group or prompt leads out of."""
    inside = before.growth.old < 0
    for start, was, count in before.growth.runs:
        for name in _DECIDES:
            inside[start : start + count] |= rows[name][start : start + count] != before.rows[name][was : was + count]
    columns = [np.ascontiguousarray(rows[name]) for name in ("cluster", "prompt", "group")]
    columns.append(np.ascontiguousarray(before.placed["unit"]))
    nothing = [None, None, np.uint64(0), OUT]  # values that tie nobody to anybody
    new = inside.copy()
    while new.any():
        reached = np.zeros(len(rows), bool)
        for column, none in zip(columns, nothing, strict=True):
            values = np.unique(column[new])
            reached |= isin(column, values if none is None else values[values != none])
        new = reached & ~inside
        inside |= new
    return np.flatnonzero(inside)
