"""MLflow's SQLite database: migrates it under a lock, reads it without MLflow, and repairs it after a home was moved or copied.

MLflow stores absolute paths: of artifacts, of a version's source, and in tags. Without a repair, new runs would write to
the old place, and models would be loaded from there.
"""

import contextlib
import logging
import os
import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from finetune_pipeline.engine.files import make_private, replace_text
from finetune_pipeline.settings import PROJECT_HOME, read_settings
from finetune_pipeline.tracking.mlflow_store import TrackingError, fix_file, mlflow_errors, set_environment, unusable

log = logging.getLogger(__name__)
_WITH_PATHS = ("model.json", "MLmodel")
"""Files of a registered model that contain paths."""


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of a SQLite address, or None. In the settings' addresses it is absolute and without ? or %XX."""
    return Path(uri.partition("///")[2].partition("?")[0]) if uri.startswith("sqlite:") else None


def migrate(uri: str) -> None:
    """Create a database, or migrate a SQLite file to this MLflow's schema. Call it under a lock.

    Both use a second file that is renamed when complete, so a kill leaves the old state; an old database is kept as
    `<name>.before-<revision>`. Other kinds of databases are left to their owner, and servers need nothing. Raises
    TrackingError, and changes nothing, if the file is not MLflow's or of a newer MLflow.
    """
    set_environment()
    file = sqlite_file(uri)
    if file is None:
        return
    if file.parent.parent == (home := read_settings().home):
        make_private(home)
    file.parent.mkdir(parents=True, exist_ok=True)
    with mlflow_errors(uri):
        from alembic.script import ScriptDirectory
        from mlflow.store.db import utils

        latest, current = str(utils._get_latest_schema_revision()), _revision(file)
        if current == latest:
            return
        revisions = {r.revision for r in ScriptDirectory.from_config(utils._get_alembic_config("")).walk_revisions()}
        if current not in {None, *revisions}:
            raise TrackingError(
                f"{file} is not a database of MLflow, or of a newer MLflow than the installed one\n"
                "fix: correct MLFLOW_TRACKING_URI, or update MLflow"
            )
        temporary = file.with_name(f".making-{file.name}")
        temporary.unlink(missing_ok=True)
        if current is None:  # SQLite would write into the new file what the journal of a lost one holds
            file.with_name(f"{file.name}-journal").unlink(missing_ok=True)
        else:
            _copy_database(file, file.with_name(f"{file.name}.before-{latest}"))
            _copy_database(file, temporary)
        upgrade: Any = utils._initialize_tables if current is None else utils._upgrade_db
        engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{temporary}")
        try:
            upgrade(engine)
        finally:
            engine.dispose()
        os.replace(temporary, file)


def _revision(file: Path) -> str | None:
    """Return the schema revision of a database file; None without a file or tables; "" if it has only tables."""
    if not file.exists():
        return None
    with contextlib.closing(sqlite3.connect(file)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return None
        if "alembic_version" not in tables:
            return ""
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(row[0]) if row else ""


def _copy_database(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


def read_database(file: Path, query: str, *values: object) -> list[tuple[Any, ...]] | None:
    """Return the rows of a read-only query, empty without a file. None: the database has no such table or column.

    Raises TrackingError if it cannot be opened.
    """
    if not file.exists():
        return []
    try:
        # not mode=ro: the next reader rolls back a killed process's partial write, which requires write access
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=60)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.DatabaseError as error:
        if "no such" in str(error):
            return None
        raise unusable(f"sqlite:///{file}", error, "cannot be read", fix_file(error)) from None


def follow_home(database: Path, experiment: str, home: Path) -> None:
    """Replace the old place by the current one in a SQLite database of MLflow and in files beside it.

    database: `<place>/mlflow.db`, with artifacts in `<place>/artifacts`. If `place` is in `home`, the whole home has moved; if
    home is and was a project's `.finetune`, the whole project, if the old place no longer exists. Experiments with a custom
    artifact location are not changed. If it is killed, the next call continues.
    """
    place, artifacts = database.parent, database.parent / "artifacts"
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
        old_artifacts = Path(unquote(urlsplit(row[0]).path)) if row and row[0].startswith(("file:", "/")) else None
        if old_artifacts is None or old_artifacts == artifacts or old_artifacts.parts[-2:] != (place.name, "artifacts"):
            return
        if old_artifacts.exists() and (not artifacts.exists() or artifacts.samefile(old_artifacts)):
            return  # only the database was copied, or it is the same folder under another name
        before, after = (old_artifacts.parent.parent, home) if place.parent == home else (old_artifacts.parent, place)
        if before.name == after.name == PROJECT_HOME and not before.parent.exists():
            before, after = before.parent, after.parent  # such as a base model in the project
        log.warning("%s was moved to %s: MLflow's records follow it", before, after)
        connection.create_function("moved", 1, lambda text: _moved(text, before, after))
        for path in (p for name in _WITH_PATHS for p in artifacts.rglob(name)):
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
    """Replace the old place at the start of paths and file addresses, but not in the middle of other paths.

    Paths that an earlier, killed attempt has replaced stay as they are, even if the new place begins with the old one.
    """
    for begin, old, new in (
        (r"(?<=file://)", quote(str(before)), quote(str(after))),
        (r"(?<![\w.~%/-])", str(before), str(after)),
    ):
        replaced = f"(?!{re.escape(new.removeprefix(old))}/)" if new.startswith(f"{old}/") else ""
        text = new.join(re.split(f"{begin}{re.escape(old)}{replaced}(?=/)", text))
    return text
