"""Opens MLflow: sets its environment, says what is wrong with a server or database, and removes secrets from texts."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit, urlunsplit

from finetune_pipeline.engine.files import hold
from finetune_pipeline.escaping import printable
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
_UNREACHABLE_SIGNS = (
    "failed with exception",
    "Max retries",
    "could not connect",
    "Connection refused",
    "unsupported URI",
    "Invalid url",
    "Databricks credential configuration failed",
    *SQLITE,
)
"""Parts of error messages of databases and connections that cannot be used; for servers' responses see _RESPONSE_SIGNS."""
_ROW_EXISTS_SIGNS = ("IntegrityError", "UniqueViolation")
"""Parts of error messages, also of servers, of a database that has a row already which MLflow inserts."""
_ATTEMPTS = 6
_FIX_LOGIN = "log in: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_FIX_RIGHTS = "ask its owner for read and write access, or correct the login"
_FIX_ADDRESS = "this address is not an MLflow server: correct MLFLOW_TRACKING_URI"
_FIX_RETRY = "see the server's log, and run this again"
_FIX_VERSION = "this address is not an MLflow server, or an older one: correct MLFLOW_TRACKING_URI"
_RESPONSE_SIGNS = {
    _FIX_LOGIN: ("error code 401", "UNAUTHENTICATED"),
    _FIX_RIGHTS: ("error code 403", "PERMISSION_DENIED"),
    _FIX_ADDRESS: ("error code 404", "not in a valid JSON format"),
    _FIX_VERSION: ("ENDPOINT_NOT_FOUND",),
    _FIX_RETRY: ("error code", "INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"),
}
"""Fixes, with parts of servers' error responses; the first that matches is used."""

_QUIET_LOGGERS = ("alembic", "mlflow.store.model_registry", "mlflow.utils.environment")  # none of their lines is useful
_FIX_SERVER = "start it, correct MLFLOW_TRACKING_URI, or unset it to use the local database"
_FIX_FILE = "correct MLFLOW_TRACKING_URI or FINETUNE_HOME"


class TrackingError(OutsideError):
    """Raised if MLflow cannot be used, with its address and a fix."""


def set_environment() -> None:
    """Set the environment variables that MLflow reads at import; existing values are kept."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    # the errors that it logs with a traceback are raised anyway
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def open_client(uri: str) -> MlflowClient:
    """Return a client of the tracking server and registry at `uri`, see :class:`_Client`. The store must be prepared."""
    set_environment()
    from mlflow import MlflowClient

    with mlflow_errors(uri):
        try:
            return cast("MlflowClient", _Client(MlflowClient(tracking_uri=uri, registry_uri=uri)))
        except ModuleNotFoundError as error:
            fix = "install the Python package of this database's driver, or correct MLFLOW_TRACKING_URI"
            raise unusable(uri, error, "cannot be reached", fix) from None


class _Client:
    """An MlflowClient that repeats a call whose row another run has written in the meantime.

    MLflow looks for a data set, parameter, tag or alias, and inserts it if there is none. If two runs do so at once, the
    database refuses the second one and undoes it. The repeated call sees the other one's row. Calls that MLflow refuses
    for another reason are not repeated.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        return partial(_repeated, attribute) if callable(attribute) else attribute


def _repeated(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    from mlflow.exceptions import MlflowException

    for attempt in range(_ATTEMPTS):
        try:
            return call(*args, **options)
        except MlflowException as error:
            if attempt + 1 == _ATTEMPTS or not any(sign in str(error) for sign in _ROW_EXISTS_SIGNS):
                raise
            time.sleep(random.uniform(0, 0.1) * 2**attempt)  # noqa: S311 - so that two runs do not meet again
    raise AssertionError("unreachable")


def locked(folder: Path, name: str) -> contextlib.AbstractContextManager[None]:
    return hold(folder / f".{name}.lock")


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Convert errors that mean "cannot be reached" or "does not answer like MLflow" to TrackingError; others pass through.

    With a SQLite file, SIGINT and SIGTERM are handled when the block ends: an interrupt inside SQLAlchemy would lose the
    connection with its transaction open, and the file would stay locked for all until this process ends.
    """
    import requests
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import DatabaseError

    try:
        with _signals_wait() if uri.startswith("sqlite:") else contextlib.nullcontext():
            yield
    except requests.RequestException as error:  # before ValueError: its JSONDecodeError is both
        raise unusable(uri, error, "cannot be reached", _FIX_SERVER) from None
    except (json.JSONDecodeError, ParseError) as error:
        if not uri.startswith("http"):
            raise
        raise unusable(uri, error, "does not answer in MLflow's format", _FIX_ADDRESS) from None
    except (MlflowException, DatabaseError, sqlite3.DatabaseError) as error:
        if any(sign in str(error) for sign in _UNREACHABLE_SIGNS):
            fix = fix_file(error) if uri.startswith("sqlite:") else _FIX_SERVER
            raise unusable(uri, error, "cannot be reached", fix) from None
        fixes = [fix for fix, signs in _RESPONSE_SIGNS.items() if any(sign in str(error) for sign in signs)]
        if not fixes or not uri.startswith("http"):
            raise
        raise unusable(uri, error, "cannot be used", fixes[0]) from None


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Delay the handling of SIGINT and SIGTERM until the block ends; a second signal is handled at once."""
    if threading.current_thread() is not threading.main_thread():  # other threads are never interrupted
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # None: not set by Python, so that it cannot be put back
    handlers = {number: handler for number, handler in handlers.items() if handler is not None}
    received: list[int] = []

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def wait(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in handlers:
        signal.signal(number, wait)
    try:
        yield
    finally:
        restore()
        if received:
            signal.raise_signal(received[0])


def fix_file(error: Exception) -> str:
    """Return what to do about an error of a SQLite file."""
    return next((fix for sign, (_, fix) in SQLITE.items() if sign in str(error)), _FIX_FILE)


def unusable(uri: str, error: Exception, how: str, fix: str) -> TrackingError:
    """Return the error for an MLflow that cannot be used. how: what is wrong, as "cannot be reached"."""
    lines = str(error).replace(uri, without_credentials(uri)).strip().splitlines() or [type(error).__name__]
    # not always the first line: SQLAlchemy may begin with advice to programmers
    reason = next((line for line in lines if any(sign in line for sign in _UNREACHABLE_SIGNS)), lines[0])
    return TrackingError(f"MLflow at {without_credentials(uri)} {how}: {reason[:300]}\nfix: {fix}")


def without_credentials(uri: str) -> str:
    """Return the address without user name and password."""
    parts = urlsplit(uri)
    if "@" not in parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


@contextlib.contextmanager
def suppress_error(code: str) -> Iterator[None]:
    """Suppress MLflow's error with this code; the rest of the block is skipped."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != code:
            raise


def experiment_id(client: Any, name: str, artifact_location: Path | None) -> str:
    """Return the experiment's id, creating it if missing. artifact_location: None leaves it to the server.

    Raises TrackingError if the experiment was deleted.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        with suppress_error("RESOURCE_ALREADY_EXISTS"):  # created by another machine meanwhile
            place = artifact_location.as_uri() if artifact_location else None
            return str(client.create_experiment(name, place, tags={EXPERIMENT_KIND: KIND_OF_MODELS}))
        experiment = client.get_experiment_by_name(name)
    if experiment is None or experiment.lifecycle_stage != "active":
        deleted_id = experiment.experiment_id if experiment else "ID"
        raise TrackingError(
            f"MLflow experiment {name!r} was deleted\n"
            f"fix: `mlflow experiments restore -x {deleted_id}`, or choose another name"
        )
    return str(experiment.experiment_id)


_SECRET_NAME = re.compile(
    r"(^|[._-])(api[_-]?key|access[_-]?key|secret([_-]?key)?|auth[_-]?token|access[_-]?token"
    r"|token|password|passwd|authorization|credentials?)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST_SECRET = 8
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def redact(text: str) -> str:
    """Replace the values of secret environment variables and logins in addresses in `text`.

    A variable is secret if its name ends in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS and its value has 8 characters
    or more (shorter ones would match ordinary words).
    """
    text = printable(text)  # file names, keys and labels may contain what is not text
    names_by_secret = {
        value: name
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= _SHORTEST_SECRET
    }
    for secret in sorted(names_by_secret, key=len, reverse=True):  # a secret may contain a shorter one
        text = text.replace(secret, f"[{names_by_secret[secret]} redacted]")
    return _IN_ADDRESS.sub("[redacted]@", text)


def redact_field(name: str, value: object) -> str:
    """Return a field's value as redacted text; replaced completely if the field's name indicates a secret."""
    if isinstance(value, str) and value and _SECRET_NAME.search(name):
        return "[redacted]"
    return redact(str(value))
