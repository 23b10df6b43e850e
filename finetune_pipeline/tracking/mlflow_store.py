"""Opens MLflow: sets its environment, migrates its database under a lock, and keeps secrets out of what is recorded."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from mlflow import MlflowClient

ENVIRONMENT = {
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",  # the default pool loses writes silently once it is exhausted
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight idle workers otherwise
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # bars of one file each, in every step's log
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "5",  # about half a minute in all, instead of four
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_UNREACHABLE = (
    "failed with exception",
    "Max retries",
    "unable to open database",
    "database or disk is full",
    "could not connect",
    "Connection refused",
    "503 != 200",
    "502 != 200",
    "error code 503",
    "error code 502",
)

_QUIET = ("alembic", "mlflow.store.db.utils", "mlflow.store.model_registry")  # hundreds of lines, none of them news
_FIX_SERVER = "start it, correct MLFLOW_TRACKING_URI, or unset it to use the local database"
_FIX_FILE = "see that its folder can be written and has free space; or correct MLFLOW_TRACKING_URI or FINETUNE_HOME"


class TrackingError(RuntimeError):
    """MLflow cannot be used: said with its address and what to do. Never swallowed: a run nobody recorded is no run."""


def set_environment() -> None:
    """Set what MLflow reads at import; a value somebody chose stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def open_client(uri: str) -> MlflowClient:
    """A client of the tracking server and registry at `uri`. The store must be prepared."""
    set_environment()
    from mlflow import MlflowClient

    with reaching(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextlib.contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """A lock of all processes on this machine; freed by the kernel if its holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f".{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Turn errors that mean "cannot be reached" into a TrackingError; all others pass."""
    import requests
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except (MlflowException, OperationalError, sqlite3.OperationalError, requests.RequestException) as error:
        if not isinstance(error, requests.RequestException) and not any(t in str(error) for t in _UNREACHABLE):
            raise
        reason = str(error).replace(uri, without_credentials(uri)).strip().splitlines()[0][:300]
        raise TrackingError(
            f"MLflow at {without_credentials(uri)} cannot be reached: {reason}\n"
            f"fix: {_FIX_FILE if uri.startswith('sqlite:') else _FIX_SERVER}"
        ) from None


def without_credentials(uri: str) -> str:
    """The address without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite address, or None. Raises ValueError if it is not absolute."""
    if not uri.startswith("sqlite:"):
        return None
    path = Path(uri.partition("///")[2].partition("?")[0])
    if not path.is_absolute():
        raise ValueError(
            f"MLflow database {uri!r} is relative to a working folder, and every process has its own: "
            "write sqlite:////absolute/path/mlflow.db"
        )
    return path


def migrate(uri: str) -> None:
    """Create a database, or bring a SQLite file to this MLflow's schema. Call it under a lock.

    Both happen in a second file that is renamed into place when it is whole, so a kill leaves the old state; an old
    database is kept as `<name>.before-<revision>`. Databases of other kinds are left to their owner
    (`mlflow db upgrade`), which MLflow's own error says. Addresses of servers need nothing.
    """
    set_environment()
    file = sqlite_file(uri)
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with reaching(uri):
        wanted, present = _wanted_revision(), _revision(file)
        if present == wanted:
            return
        making = file.with_name(f".making-{file.name}")
        making.unlink(missing_ok=True)
        if present is not None:
            _copy_database(file, file.with_name(f"{file.name}.before-{wanted}"))
            _copy_database(file, making)
        _upgrade(making, fresh=present is None)
        os.replace(making, file)


def _wanted_revision() -> str:
    from mlflow.store.db import utils

    return str(utils._get_latest_schema_revision())


def _revision(file: Path) -> str | None:
    """Schema revision of a database file; None if there is no file or no table in it; "" if it has tables but none."""
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
    """The experiment's id; it is created if missing. artifact_location: None leaves it to the server.

    Raises TrackingError if somebody deleted the experiment.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, artifact_location.as_uri() if artifact_location else None))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another machine meanwhile
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
    """`text` with every value of a secret environment variable, and every login in an address, replaced.

    A variable is secret if its name ends in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS and its value has 8 characters
    or more (shorter ones would hit ordinary words).
    """
    env = os.environ if environment is None else environment
    secrets = {v: n for n, v in env.items() if _SECRET_VARIABLE.search(n) and len(v) >= _SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"[{secrets[value]} redacted]")
    return _IN_ADDRESS.sub("[redacted]@", text)


def redact_field(name: str, value: object) -> str:
    """A field's value as text; all of it is replaced if the field's name says that it is a secret."""
    if isinstance(value, str) and value and _SECRET_NAME.search(name):
        return "[redacted]"
    return redact(str(value))
