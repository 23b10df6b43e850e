"""Resources that all processes of a test session share and make once: the server of warm workers, a migrated MLflow
database, the bundled base model, and trained tiny models."""

import atexit
import json
import os
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from finetune_pipeline.engine.files import hold

_VARIABLE = "FINETUNE_TEST_SHARED"


@dataclass(frozen=True)
class Shared:
    """The session's shared folder, and the process whose end removes it."""

    folder: Path
    owner: int

    @classmethod
    def get(cls) -> Self:
        """The session's folder, which child processes find through an environment variable; the first caller makes it."""
        if _VARIABLE not in os.environ:
            folder = tempfile.mkdtemp(prefix="finetune-tests-")
            os.environ[_VARIABLE] = f"{os.getpid()}:{folder}"
            atexit.register(shutil.rmtree, folder, True)
        owner, _, folder = os.environ[_VARIABLE].partition(":")
        return cls(Path(folder), int(owner))


def disable_fsync() -> None:
    """Wait for no disk in this process: it takes much of a test, and nothing that a test writes need survive a power cut."""
    import sqlalchemy

    os.fsync = os.fstat  # fails on a closed file as well

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
    def disable(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")


def copy_database(folder: Path) -> str:
    """Copy an empty, migrated MLflow database into a folder, since a migration takes seconds. Returns the tracking URI."""
    from finetune_pipeline.tracking.database import migrate

    shared = Shared.get().folder
    with hold(shared / "database.lock"):
        if not (shared / "migrated").exists():
            migrate(f"sqlite:///{shared}/mlflow.db")
            (shared / "migrated").touch()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(shared / "mlflow.db", folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def bundled_base() -> tuple[Path, dict[str, Any]]:
    """The base_model artifact of the bundled model and its facts. Tests must not change it."""
    from finetune_pipeline.models.base import prepare_base

    folder = Shared.get().folder / "bundled"
    facts = folder / "facts.json"
    with hold(folder.with_suffix(".lock")):
        if not facts.exists():
            folder.mkdir(exist_ok=True)
            result = prepare_base("bundled/smollm2-135m-instruct", None, folder, None)
            facts.write_text(json.dumps(result.to_json()))
    return folder, json.loads(facts.read_text())


def copy_skilled_model(folder: Path, *, right: bool = True) -> Path:
    """Copy a tiny model trained on the colour task into `folder`, since training one takes seconds. Returns `folder`.

    right: Whether it answers with the right label or always with the other one.
    """
    from finetune_pipeline_tests import skilled_model

    model = Shared.get().folder / ("skilled" if right else "wrong")
    with hold(model.with_suffix(".lock")):
        if not model.exists():
            unfinished = model.with_suffix(".unfinished")
            skilled_model.make_skilled_model(
                unfinished,
                lambda _, label: label if right else skilled_model.other_label(label),
                steps=100,
                knowledge=False,
            )
            unfinished.rename(model)
    return Path(shutil.copytree(model, folder))
