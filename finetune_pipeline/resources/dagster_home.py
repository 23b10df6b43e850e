"""Where Dagster keeps its history: below the pipeline's home, absolute, whatever process asks from whatever folder.

`dagster.yaml` names these classes. They are Dagster's own local storages with the folder taken from
:mod:`finetune_pipeline.settings`; a path written into the file itself would be relative to each process's working
folder, and an environment variable would have to be set by hand before every `dagster` command.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData

from finetune_pipeline.settings import read_settings


def dagster_folder() -> Path:
    """<home>/dagster, made if it does not exist."""
    folder = read_settings().home / "dagster"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class HomeStorage(DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files."""

    @classmethod
    def config_type(cls) -> Any:
        """Nothing to configure here: FINETUNE_HOME decides."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> HomeStorage:  # type: ignore[override]
        """The storage below the present home."""
        return cls.from_local(str(dagster_folder() / "history"), inst_data)


class HomeArtifacts(LocalArtifactStorage):
    """What Dagster's own IO managers write (this pipeline's assets use none)."""

    @classmethod
    def config_type(cls) -> Any:
        """Nothing to configure here: FINETUNE_HOME decides."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> HomeArtifacts:  # type: ignore[override]
        """The storage below the present home."""
        return cls(str(dagster_folder()), inst_data)


class HomeComputeLogs(LocalComputeLogManager):
    """Standard output and error of every step."""

    @classmethod
    def config_type(cls) -> Any:
        """Nothing to configure here: FINETUNE_HOME decides."""
        return {}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> HomeComputeLogs:
        """The log manager below the present home."""
        return cls(str(dagster_folder() / "compute_logs"), inst_data=inst_data)
