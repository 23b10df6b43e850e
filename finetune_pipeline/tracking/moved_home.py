"""Repairs MLflow's records and registered models after FINETUNE_HOME was moved or copied.

MLflow stores absolute paths: of artifacts, of a version's source, and in tags. Without a repair, new runs would write to
the old place, and models would be loaded from there.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sqlite3
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from finetune_pipeline.engine.store import replace_text
from finetune_pipeline.settings import PROJECT_HOME

log = logging.getLogger(__name__)
_WITH_PATHS = ("model.json", "MLmodel")
"""Files of a registered model that contain paths."""


def follow_home(database: Path, experiment: str, home: Path) -> None:
    """Replace the old place by the current one in a SQLite database of MLflow and in files beside it.

    database: `<place>/mlflow.db`, with artifacts in `<place>/artifacts`. If `place` is in `home`, the whole home has moved; if
    home is and was a project's `.finetune`, the whole project, if the old place no longer exists. Experiments with a custom
    artifact location are not changed. If it is killed, the next call continues.
    """
    place = database.parent
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
        old = Path(unquote(urlsplit(row[0]).path)) if row and row[0].startswith(("file:", "/")) else None
        if old is None or old == place / "artifacts" or old.parts[-2:] != (place.name, "artifacts"):
            return
        present = place / "artifacts"
        if old.exists() and not (present.exists() and not present.samefile(old)):
            return  # the artifacts did not move, or are in the same folder under another name
        before, after = (old.parent.parent, home) if place.parent == home else (old.parent, place)
        if before.name == after.name == PROJECT_HOME and not before.parent.exists():
            before, after = before.parent, after.parent  # such as a base model in the project
        log.warning("%s was moved to %s: MLflow's records follow it", before, after)
        connection.create_function("moved", 1, lambda text: _moved(text, before, after))
        for path in (p for name in _WITH_PATHS for p in (place / "artifacts").rglob(name)):
            text = path.read_text("utf-8")
            if (replaced := _moved(text, before, after)) != text:
                replace_text(path, replaced)
        with connection:  # one transaction
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for _, column, kind, *_rest in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                    if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                        connection.execute(
                            f'UPDATE "{table}" SET "{column}" = moved("{column}") '  # noqa: S608
                            f'WHERE instr("{column}", ?) OR instr("{column}", ?)',
                            (str(before), quote(str(before))),
                        )


def _moved(text: str, before: Path, after: Path) -> str:
    """Replace the old place at the start of paths and file addresses; it may also be the middle of a path to elsewhere.

    What an earlier attempt, which was killed, has replaced stays, even if the old place is the start of the new one.
    """
    for begin, old, new in (
        (r"(?<=file://)", quote(str(before)), quote(str(after))),
        (r"(?<![\w.~%/-])", str(before), str(after)),
    ):
        replaced = f"(?!{re.escape(new.removeprefix(old))}/)" if new.startswith(f"{old}/") else ""
        text = re.sub(f"{begin}{re.escape(old)}{replaced}(?=/)", lambda _, new=new: new, text)
    return text
