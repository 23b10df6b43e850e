"""MLflow runs that mirror Dagster's: one parent per Dagster run, one nested run per materialization."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from finetune_pipeline.settings import read_settings
from finetune_pipeline.tracking.database import follow_home, migrate, read_database, sqlite_file
from finetune_pipeline.tracking.mlflow_store import (
    experiment_id,
    locked,
    mlflow_errors,
    open_client,
    redact,
    without_credentials,
)
from finetune_pipeline.tracking.step_run import StepRun

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN, KIND, ASSET, VERSION = "dagster.run_id", "dagster.kind", "dagster.asset", "finetune.version"
ERROR = "finetune.error"
_OF_TASK = "dagster.tag.finetune/task"
_STATUS = {"SUCCESS": "FINISHED", "FAILURE": "FAILED", "CANCELED": "KILLED"}
"""Maps Dagster's statuses to MLflow's."""
VIEW = "workflowType=machine_learning"
"""Makes MLflow's pages show runs, models and metrics instead of agents and prompts."""
_PROCESS_TAGS = ("finetune/pid", "finetune/process_started")
_SHOWN_RUN_TAGS = ("finetune/", "dagster/schedule_name", "dagster/sensor_name", "dagster/backfill")
ADDRESS, DEFAULT_PAGE = "address", "http://127.0.0.1:5000"
"""File with the address at which `finetune ui` served MLflow last, and the one that it has by default."""
_PREPARED: set[tuple[str, str]] = set()


class Tracking(dg.ConfigurableResource[Any]):
    """MLflow, used only through its client: no global state, no active run."""

    tracking_uri: str = Field(default="", description="Empty: MLFLOW_TRACKING_URI, or SQLite below home.")
    experiment: str = Field(default="finetune", description="Name of the MLflow experiment.")
    folder: str = Field(
        default="", description="Folder of locks and local artifacts; empty: beside the SQLite file, or <home>/mlflow."
    )

    def uri(self) -> str:
        return self.tracking_uri or read_settings().tracking_uri

    def place(self) -> Path:
        """Absolute path of the folder of locks and, with a database, of artifacts."""
        if self.folder:
            return Path(self.folder).absolute()
        file = sqlite_file(self.uri())
        return file.parent if file else read_settings().home / "mlflow"

    def page(self) -> str:
        """Base address of MLflow's pages: the tracking server's; for a database, where `finetune ui` served it last, or would."""
        uri = without_credentials(self.uri())
        if uri.startswith("http"):
            return uri.rstrip("/")
        address = self.place() / ADDRESS
        return address.read_text("utf-8").strip() if address.is_file() else DEFAULT_PAGE

    def prepare(self) -> None:
        """Create or migrate the store and the experiment, under a lock for all processes. Runs once per process.

        MLflow's own migration corrupts an empty database that several processes open at once: call this before starting anything
        in parallel. Raises TrackingError if the server cannot be reached.
        """
        uri = self.uri()
        file = sqlite_file(uri)
        # after a deletion, opening the file creates an empty one
        is_complete = file is None or (file.exists() and file.stat().st_size > 0)
        if (uri, self.experiment) in _PREPARED and is_complete:
            return
        with locked(self.place(), "prepare"):
            migrate(uri)
            if file is not None:
                follow_home(file, self.experiment)
            is_server = uri.startswith(("http://", "https://"))
            with mlflow_errors(uri):
                experiment_id(open_client(uri), self.experiment, None if is_server else self.place() / "artifacts")
        _PREPARED.add((uri, self.experiment))

    def client(self) -> MlflowClient:
        self.prepare()
        return open_client(self.uri())

    def look_up(self, query: str, *values: object) -> list[tuple[Any, ...]] | None:
        """Query a SQLite database without MLflow, whose import and schema check take four seconds.

        Nothing is created: a missing database has no rows. None: use :meth:`client` instead, since the database is behind a
        server or has other tables.
        """
        file = sqlite_file(self.uri())
        return None if file is None else read_database(file, query, *values)

    @contextmanager
    def step(self, context: Any, task: str, asset: str, version: str, reused: bool = False) -> Iterator[StepRun]:
        """Open the nested run `<task>/<asset>` of this Dagster run; a retry continues it.

        The nested run ends FINISHED when the block ends, KILLED when the block is interrupted, FAILED when it raises.

        Args:
            context: Any Dagster execution context.
            version: The artifact's version.
            reused: Whether the artifact existed already.
        """
        op = getattr(context, "op_execution_context", context)
        client, uri, name = self.client(), self.uri(), f"{task}/{asset}"
        with mlflow_errors(uri):
            experiment = experiment_id(client, self.experiment, None)
            with locked(self.place(), "runs"):
                parent = self._parent(client, experiment, op.run)
                run_id = _nested(
                    client, experiment, parent=parent, dagster_run_id=op.run.run_id, name=name, version=version
                )
        page = f"{self.page()}/#/experiments/{experiment}/runs"
        parent_run = StepRun(client, uri, parent, f"{page}/{parent}?{VIEW}")
        run = StepRun(client, uri, run_id, f"{page}/{run_id}?{VIEW}", parent_run)
        try:
            run.set_tags({"finetune.reused": str(reused).lower(), "dagster.attempt": getattr(op, "retry_number", 0)})
            yield run
        except BaseException as error:
            self._close_failed(client, run_id, error)
            raise
        with mlflow_errors(uri):
            client.set_terminated(run_id, "FINISHED")

    def finish(self, dagster_run_id: str, status: str) -> int:
        """Close the parent run and nested runs left open by a killed process. Returns the number of closed runs.

        status: Dagster's SUCCESS, FAILURE or CANCELED. Open nested runs become FAILED even after SUCCESS, since their process
        never reported it. Repeating it with the same status does nothing.
        """
        mlflow_status = _STATUS[status]
        client = self.client()
        with mlflow_errors(self.uri()), locked(self.place(), "runs"):
            experiment = experiment_id(client, self.experiment, None)
            open_runs = [run for run in _runs_of(client, experiment, dagster_run_id) if run.info.status == "RUNNING"]
            for run in open_runs:
                is_parent = run.data.tags.get(KIND) == "run"
                unreported = mlflow_status == "FINISHED" and not is_parent
                client.set_terminated(run.info.run_id, "FAILED" if unreported else mlflow_status)
        return len(open_runs)

    def open_runs(self, task: str) -> list[str]:
        """Return the ids of the Dagster runs of a task that are not ended in MLflow."""
        query = (
            "SELECT DISTINCT ids.value FROM runs JOIN tags AS ids ON ids.run_uuid = runs.run_uuid AND ids.key = ? "
            "JOIN tags AS tasks ON tasks.run_uuid = runs.run_uuid AND tasks.key = ? AND tasks.value = ? "
            "WHERE runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active'"
        )
        rows = self.look_up(query, RUN, _OF_TASK, task)
        if rows is not None:
            return [run_id for (run_id,) in rows]
        client = self.client()
        with mlflow_errors(self.uri()):
            experiment = experiment_id(client, self.experiment, None)
            running = f"attributes.status = 'RUNNING' AND tags.`{_OF_TASK}` = '{task}'"
            return sorted({run.data.tags[RUN] for run in search(client, experiment, running) if RUN in run.data.tags})

    def _parent(self, client: MlflowClient, experiment: str, run: dg.DagsterRun) -> str:
        """Return the id of the parent run of a Dagster run, found or created."""
        parents = _runs_of(client, experiment, run.run_id, {KIND: "run"})
        if parents:  # machines without a common lock may have made several: all use the oldest
            if parents[0].info.status != "RUNNING":
                client.update_run(parents[0].info.run_id, status="RUNNING")
            return str(parents[0].info.run_id)
        tags = {RUN: run.run_id, KIND: "run", "dagster.job": run.job_name}
        tags |= {"mlflow.source.name": run.job_name, "mlflow.source.type": "JOB"}
        if commit := _commit(read_settings().project):
            tags["mlflow.source.git.commit"] = commit
        if run.root_run_id:
            tags["dagster.root_run_id"] = run.root_run_id
        tags |= {
            f"dagster.tag.{name}": redact(value)
            for name, value in run.tags.items()
            if name.startswith(_SHOWN_RUN_TAGS) and name not in _PROCESS_TAGS
        }
        parent = client.create_run(experiment, run_name=f"{run.job_name}-{run.run_id[:8]}", tags=tags)
        return str(parent.info.run_id)

    def _close_failed(self, client: MlflowClient, run_id: str, error: BaseException) -> None:
        """Close a nested run with the error that ended its block."""
        interrupts = (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
        cancelled = isinstance(error, interrupts) or isinstance(error.__cause__, interrupts)
        try:
            with mlflow_errors(self.uri()):
                client.set_tag(run_id, ERROR, redact(f"{type(error).__name__}: {error}")[:4000])
                client.set_terminated(run_id, "KILLED" if cancelled else "FAILED")
        except Exception as close_error:  # noqa: BLE001 - the first error is the one to show; this one must not be lost either
            error.add_note(f"its MLflow run {run_id} could not be closed: {close_error}")


def _commit(project: Path) -> str | None:
    """Return the commit of the project's folder; None without Git or a Git repository."""
    try:
        command = ["git", "-C", str(project), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _nested(client: MlflowClient, experiment: str, *, parent: str, dagster_run_id: str, name: str, version: str) -> str:
    """Return the id of a step's nested run, which is running: that of an earlier attempt, or a new one."""
    for run in _runs_of(client, experiment, dagster_run_id, {ASSET: name, VERSION: version}):
        client.update_run(run.info.run_id, status="RUNNING")
        if ERROR in run.data.tags:
            client.delete_tag(run.info.run_id, ERROR)
        return str(run.info.run_id)
    tags = {"mlflow.parentRunId": parent, RUN: dagster_run_id, KIND: "asset", ASSET: name, VERSION: version}
    return str(client.create_run(experiment, run_name=name, tags=tags).info.run_id)


def _runs_of(
    client: MlflowClient, experiment: str, dagster_run_id: str, tags: Mapping[str, str] | None = None
) -> list[Run]:
    """Return all runs of a Dagster run with these tags, oldest first. MLflow takes milliseconds to read each of them."""
    query = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in {RUN: dagster_run_id, **(tags or {})}.items())
    return search(client, experiment, query)


def search(client: MlflowClient, experiment: str, query: str) -> list[Run]:
    """Return all runs of an experiment that a query of MLflow names, oldest first."""
    from mlflow.utils import get_results_from_paginated_fn

    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    runs: list[Run] = get_results_from_paginated_fn(
        lambda limit, token: client.search_runs(
            [experiment], query, max_results=limit, order_by=order, page_token=token
        ),
        1000,
    )
    return runs
