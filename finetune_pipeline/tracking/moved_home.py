"""Repairs MLflow's records and registered models after FINETUNE_HOME was moved or copied.

MLflow stores absolute paths: of artifacts, of a version's source, and in tags. Without a repair, new runs would write to
the old place, and models would be loaded from there.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

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
        if old.exists() and old.samefile(place / "artifacts"):
            return  # the same folder under another name
        before, after = (old.parent.parent, home) if place.parent == home else (old.parent, place)
        if before.name == after.name == PROJECT_HOME and not before.parent.exists():
            before, after = before.parent, after.parent  # such as a base model in the project
        log.warning("%s was moved to %s: MLflow's records follow it", before, after)
        changes = [(f"{before}/", f"{after}/"), (f"{before.as_uri()}/", f"{after.as_uri()}/")]
        for path in (p for name in _WITH_PATHS for p in (place / "artifacts").rglob(name)):
            text = replaced = path.read_text("utf-8")
            for stale, present in changes:
                if stale in present:  # an earlier attempt, which was killed, may have replaced it
                    replaced = replaced.replace(present, stale)
                replaced = replaced.replace(stale, present)
            if replaced != text:
                replace_text(path, replaced)
        with connection:  # one transaction
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for _, column, kind, *_rest in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                    if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                        for change in changes:
                            connection.execute(
                                f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) '  # noqa: S608
                                f'WHERE instr("{column}", ?)',
                                (*change, change[0]),
                            )
