"""MLflow's SQLite database: migrates it under a lock, reads it without MLflow, and follows a home that was moved or copied."""

import contextlib
import logging
import os
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from finetune_pipeline.engine.files import make_private
from finetune_pipeline.settings import read_settings
from finetune_pipeline.tracking.mlflow_store import TrackingError, fix_file, mlflow_errors, set_environment, unusable

log = logging.getLogger(__name__)
_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns with locations of artifacts."""


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


def follow_home(database: Path, experiment: str) -> None:
    """Correct MLflow's locations of artifacts, which are absolute, after the folder of its SQLite database was moved or copied.

    Otherwise new runs would write to the old place. database: `<place>/mlflow.db`, with artifacts in `<place>/artifacts`.
    Experiments with a custom artifact location are not changed; texts with paths, such as tags, are not either.
    """
    artifacts = database.parent / "artifacts"
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        row = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (experiment,)).fetchone()
        old = Path(unquote(urlsplit(row[0]).path)) if row and row[0].startswith("file:") else None
        if old is None or old == artifacts or old.parts[-2:] != artifacts.parts[-2:]:
            return
        if old.exists() and (not artifacts.exists() or artifacts.samefile(old)):
            return  # only the database was copied, or it is the same folder under another name
        log.warning(
            "%s was moved to %s: MLflow's locations follow, paths in its texts do not", old.parent, database.parent
        )
        with connection:  # one transaction
            for table, column in _LOCATIONS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
                    (artifacts.as_uri(), len(row[0]) + 1, len(row[0]), row[0]),
                )
