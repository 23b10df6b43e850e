"""What the processes of one test session make once and share: the server of warm workers, MLflow's migrated database, the
bundled base model, and models that were taught something."""

import atexit
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from finetune_pipeline.engine.files import hold

_VARIABLE = "FINETUNE_TEST_SHARED"


@dataclass(frozen=True)
class Shared:
    """A folder of the session, and the process with which it ends."""

    folder: Path
    owner: int

    @classmethod
    def get(cls) -> Self:
        """The session's, which processes started from here find in their environment; made by whoever asks first."""
        if _VARIABLE not in os.environ:
            folder = tempfile.mkdtemp(prefix="finetune-tests-")
            os.environ[_VARIABLE] = f"{os.getpid()}:{folder}"
            atexit.register(shutil.rmtree, folder, True)
        owner, _, folder = os.environ[_VARIABLE].partition(":")
        return cls(Path(folder), int(owner))


def copy_database(folder: Path) -> str:
    """Put an MLflow database without experiments into a folder. Returns its address. Making one takes seconds, so it is
    copied."""
    from finetune_pipeline.tracking.database import migrate

    shared = Shared.get().folder
    with hold(shared / "database.lock"):
        if not (shared / "made").exists():
            migrate(f"sqlite:///{shared}/mlflow.db")
            (shared / "made").touch()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(shared / "mlflow.db", folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"


def bundled_base() -> tuple[Path, dict[str, Any]]:
    """The bundled base model as the graph unpacks it, and its facts. Nobody changes it."""
    from finetune_pipeline.models.base import prepare_base

    made = Shared.get().folder / "bundled"
    facts = made / "facts.json"
    with hold(made.with_suffix(".lock")):
        if not facts.exists():
            made.mkdir(exist_ok=True)
            result = prepare_base("bundled/smollm2-135m-instruct", None, made, None)
            facts.write_text(json.dumps(result))
    return made, json.loads(facts.read_text())


def copy_skilled_model(folder: Path, *, right: bool = True) -> Path:
    """Put a tiny model that knows the task of colours into a folder, which is returned. Teaching one takes seconds, so it is
    copied.

    right: whether it says the right label, or always the other one.
    """
    from finetune_pipeline_tests import skilled_model

    made = Shared.get().folder / ("skilled" if right else "wrong")
    with hold(made.with_suffix(".lock")):
        if not made.exists():
            unfinished = made.with_suffix(".unfinished")
            skilled_model.make_skilled_model(
                unfinished,
                lambda _, label: label if right else skilled_model.other_label(label),
                steps=100,
                knowledge=False,
            )
            unfinished.rename(made)
    return Path(shutil.copytree(made, folder))
