"""Opens MLflow: sets its environment, migrates its database under a lock, and removes secrets from recorded texts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import signal
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from finetune_pipeline.engine.store import hold
from finetune_pipeline.faults import SQLITE, OutsideError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # the default pool loses writes silently once it is exhausted
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight idle workers otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # otherwise a progress bar per file in every step's log
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # about half a minute in total, instead of four
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
EXPERIMENT_KIND, KIND_OF_MODELS = "mlflow.experimentKind", "custom_model_development"
"""The tag (and its value) that makes MLflow's experiment pages show models."""
_UNREACHABLE = (
    *(
        "failed with exception",
        "Max retries",
        "could not connect",
        "Connection refused",
        "unsupported URI",
        "Invalid url",
    ),
    *("Databricks credential configuration failed", *SQLITE),
)
"""Error texts of databases and connections; servers' error responses are in :data:`_ANSWERS`."""
_LOGIN = "log in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_RIGHTS = "ask its owner for read and write access, or correct the login"
_NO_MLFLOW = "this address is not an MLflow server: correct MLFLOW_TRACKING_URI"
_AGAIN = "see the server's log, and run this again"
_ANSWERS = {
    "error code 401": _LOGIN,
    "UNAUTHENTICATED": _LOGIN,
    "error code 403": _RIGHTS,
    "PERMISSION_DENIED": _RIGHTS,
    "error code 404": _NO_MLFLOW,
    "ENDPOINT_NOT_FOUND": "this address is not an MLflow server, or an older one: correct MLFLOW_TRACKING_URI",
    "not in a valid JSON format": _NO_MLFLOW,
    "error code": _AGAIN,
    "INTERNAL_ERROR": _AGAIN,
    "TEMPORARILY_UNAVAILABLE": _AGAIN,
}
"""Texts in servers' error responses, with fixes; the first match is used."""

_QUIET = (
    "alembic",
    "mlflow.store.model_registry",
    "mlflow.utils.environment",
)  # none of their lines is useful
_FIX_SERVER = "start it, correct MLFLOW_TRACKING_URI, or unset it to use the local database"
_FIX_FILE = "correct MLFLOW_TRACKING_URI or FINETUNE_HOME"


class TrackingError(OutsideError):
    """MLflow cannot be used; the message has its address and a fix. It is never ignored, since every run must be recorded."""


def set_environment() -> None:
    """Set the environment variables that MLflow reads at import; existing values are kept."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(
        logging.CRITICAL
    )  # errors that it logs with a traceback are also raised


def open_client(uri: str) -> MlflowClient:
    """Return a client of the tracking server and registry at `uri`. The store must be prepared."""
    set_environment()
    from mlflow import MlflowClient

    with reaching(uri):
        try:
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        except ModuleNotFoundError as error:
            fix = "install the Python package of this database's driver, or correct MLFLOW_TRACKING_URI"
            raise _unusable(uri, error, "cannot be reached", fix) from None


def locked(folder: Path, name: str) -> contextlib.AbstractContextManager[None]:
    return hold(folder / f".{name}.lock")


@contextlib.contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Convert errors that mean "cannot be reached" or "does not answer like MLflow" to TrackingError; others pass through.

    With a SQLite file, signals are delayed until the end of the block: an interrupt inside SQLAlchemy loses the connection with
    its transaction open, and the file stays locked for all until this process ends.
    """
    import requests
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DatabaseError

    try:
        with _signals_wait() if uri.startswith("sqlite:") else contextlib.nullcontext():
            yield
    except requests.RequestException as error:  # before ValueError: its JSONDecodeError is both
        raise _unusable(uri, error, "cannot be reached", _FIX_SERVER) from None
    except (json.JSONDecodeError, ParseError) as error:
        if not uri.startswith("http"):
            raise
        raise _unusable(uri, error, "does not answer in MLflow's format", _NO_MLFLOW) from None
    except (MlflowException, DatabaseError, sqlite3.DatabaseError) as error:
        if any(sign in str(error) for sign in _UNREACHABLE):
            fix = _fix_file(error) if uri.startswith("sqlite:") else _FIX_SERVER
            raise _unusable(uri, error, "cannot be reached", fix) from None
        fixes = [fix for sign, fix in _ANSWERS.items() if sign in str(error)]
        if not fixes or not uri.startswith("http"):
            raise
        raise _unusable(uri, error, "cannot be used", fixes[0]) from None


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Delay the handling of SIGINT and SIGTERM until the block ends; a second signal is handled at once."""
    if threading.current_thread() is not threading.main_thread():  # other threads are never interrupted
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}  # None: not Python's
    came: list[int] = []

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def wait(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        restore()

    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    finally:
        restore()
        if came:
            signal.raise_signal(came[0])


def _fix_file(error: Exception) -> str:
    return next((fix for sign, (_, fix) in SQLITE.items() if sign in str(error)), _FIX_FILE)


def _unusable(uri: str, error: Exception, how: str, fix: str) -> TrackingError:
    reason = (str(error).replace(uri, without_credentials(uri)).strip().splitlines() or [type(error).__name__])[0][:300]
    return TrackingError(f"MLflow at {without_credentials(uri)} {how}: {reason}\nfix: {fix}")


def without_credentials(uri: str) -> str:
    """Return the address without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def sqlite_file(uri: str) -> Path | None:
    """Return the database file of a SQLite address, or None. Raises ValueError if it is not absolute, and TrackingError if a
    folder's name cannot be part of an address."""
    if not uri.startswith("sqlite:"):
        return None
    name, _, options = uri.partition("///")[2].partition("?")
    if "/" in options:
        raise TrackingError(
            f"MLflow database {uri!r}: an address ends at '?', so its folder cannot have one in its name\n"
            "fix: rename the folder, or set FINETUNE_HOME to another one"
        )
    path = Path(name)
    if not path.is_absolute():
        raise ValueError(
            f"MLflow database {uri!r} is relative to the working folder, which differs between processes: "
            "use sqlite:////absolute/path/mlflow.db"
        )
    return path


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
    file.parent.mkdir(parents=True, exist_ok=True)
    with reaching(uri):
        from alembic.script import ScriptDirectory
        from mlflow.store.db import utils

        wanted, present = str(utils._get_latest_schema_revision()), _revision(file)
        if present == wanted:
            return
        known = {each.revision for each in ScriptDirectory.from_config(utils._get_alembic_config("")).walk_revisions()}
        if present not in {None, *known}:
            raise TrackingError(
                f"{file} is not a database of MLflow, or of a newer MLflow than the installed one\n"
                "fix: correct MLFLOW_TRACKING_URI, or update MLflow"
            )
        making = file.with_name(f".making-{file.name}")
        making.unlink(missing_ok=True)
        if present is not None:
            _copy_database(file, file.with_name(f"{file.name}.before-{wanted}"))
            _copy_database(file, making)
        _upgrade(making, fresh=present is None)
        os.replace(making, file)


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
        raise _unusable(f"sqlite:///{file}", error, "cannot be read", _fix_file(error)) from None


def _upgrade(file: Path, fresh: bool) -> None:
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine_with_retry(f"sqlite:///{file}")
    try:
        if fresh:
            utils._initialize_tables(engine)
        else:
            utils._upgrade_db(engine)
    finally:
        engine.dispose()


def _copy_database(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


def experiment_id(client: Any, name: str, artifact_location: Path | None) -> str:
    """Return the experiment's id, creating it if missing. artifact_location: None leaves it to the server.

    Raises TrackingError if the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            place = artifact_location.as_uri() if artifact_location else None
            return str(client.create_experiment(name, place, tags={EXPERIMENT_KIND: KIND_OF_MODELS}))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # created by another machine meanwhile
                raise
            experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        number = experiment.experiment_id if experiment else "ID"
        raise TrackingError(
            f"MLflow experiment {name!r} was deleted\n"
            f"fix: `mlflow experiments restore -x {number}`, or choose another name"
        )
    return str(experiment.experiment_id)


_SECRET_NAME = re.compile(
    r"(^|[._-])(api[_-]?key|access[_-]?key|secret([_-]?key)?|auth[_-]?token|access[_-]?token"
    r"|token|password|passwd|authorization|credentials?)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 8
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Replace the values of secret environment variables and logins in addresses in `text`.

    A variable is secret if its name ends in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS and its value has 8 characters
    or more (shorter ones would match ordinary words).
    """
    env = os.environ if environment is None else environment
    text = text.encode("utf-8", "backslashreplace").decode()  # a file name may hold bytes that are no text
    secrets = {v: n for n, v in env.items() if _SECRET_VARIABLE.search(n) and len(v) >= _SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"[{secrets[value]} redacted]")
    return _IN_ADDRESS.sub("[redacted]@", text)


def redact_field(name: str, value: object) -> str:
    """Return a field's value as redacted text; replaced completely if the field's name indicates a secret."""
    if isinstance(value, str) and value and _SECRET_NAME.search(name):
        return "[redacted]"
    return redact(str(value))
