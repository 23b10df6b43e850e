"""MLflow's database with its tables, made once per test process and copied: making one takes seconds of every test."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

from finetune_pipeline.tracking.mlflow_store import migrate


@cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="mlflow-"))
    atexit.register(shutil.rmtree, folder, True)
    migrate(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


def copy_database(folder: Path) -> str:
    """Put a database without experiments into a folder. Returns its address."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(_made(), folder / "mlflow.db")
    return f"sqlite:///{folder}/mlflow.db"
