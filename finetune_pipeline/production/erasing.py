"""Searches every file below a folder for what a person's rows said, and overwrites it where it is found.

Artifacts made of the rows are removed as a whole; this finds what they left elsewhere: pages in MLflow, Dagster's event log,
outputs of processes. Found text is replaced by as many bytes, so that files and databases stay what they were.
"""

from __future__ import annotations

import contextlib
import html
import json
import sqlite3
from collections.abc import Callable, Iterable
from pathlib import Path

_PIECE, _SHORTEST = 32, 16
_SQLITE = b"SQLite format 3\0"
_LARGEST = 256 << 20
_WEIGHTS = (".safetensors", ".gguf", ".npy", ".parquet", ".gz")


class Needles:
    """What is searched for. Texts are cut into pieces of 32 characters, so that a page that shows a part is found; pieces
    under 16 are left, since many people write them."""

    def __init__(self, ids: Iterable[str], users: Iterable[str], texts: Iterable[str]) -> None:
        found: set[str] = {name for name in (*ids, *users) if len(name) >= 8}
        for text in texts:
            for start in range(0, len(text), _PIECE):
                piece = text[start : start + _PIECE].strip()
                if len(piece) >= _SHORTEST:
                    found.add(piece)
        forms = {f for piece in found for f in _forms(piece)}
        self.forms = sorted(forms, key=lambda f: (-len(f), f))

    def blank(self, data: bytes) -> bytes:
        """The bytes with an x for every byte of a needle."""
        for form in self.forms:
            plain = form.encode("utf-8", "surrogatepass")
            if plain in data:
                data = data.replace(plain, b"x" * len(plain))
        return data


def _forms(piece: str) -> set[str]:
    """A text as it stands in plain files, in JSON, in JSON within JSON, and on pages."""
    quoted = {json.dumps(piece)[1:-1], json.dumps(piece, ensure_ascii=False)[1:-1]}
    twice = {json.dumps(q)[1:-1] for q in quoted}
    return {piece, html.escape(piece), *quoted, *twice}


def sweep(folder: Path, needles: Needles, skip: Callable[[Path], bool]) -> int:
    """Overwrite the needles in every file below a folder, those to be skipped excepted. Returns how many were changed."""
    if not needles.forms:
        return 0
    changed = 0
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or skip(path) or path.suffix in _WEIGHTS:
            continue
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _LARGEST:
                continue
            data = path.read_bytes()
            if data.startswith(_SQLITE):
                changed += _in_database(path, needles)
            elif path.name.endswith(("-wal", "-shm")):
                continue  # part of a database, which is told to write them back
            elif (after := needles.blank(data)) != data:
                with path.open("r+b") as out:
                    out.write(after)
                changed += 1
    return changed


def _in_database(path: Path, needles: Needles) -> int:
    """Replace needles in all text columns of a SQLite file; freed pages are zeroed."""
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as db:
        db.execute("PRAGMA secure_delete=ON")
        hits = 0
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type='table'")]
        for table in tables:
            if table.startswith("sqlite_"):
                continue
            columns = [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]
            for column in columns:
                # names of the database's own tables and columns; values are bound
                change = (
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", :form, :filler) '  # noqa: S608
                    f'WHERE typeof("{column}") = \'text\' AND instr("{column}", :form) > 0'
                )
                for form in needles.forms:
                    done = db.execute(change, {"form": form, "filler": "x" * len(form)})
                    hits += done.rowcount
        db.commit()
        if hits:
            db.execute("VACUUM")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return int(hits > 0)
