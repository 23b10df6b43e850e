"""Uses of Dagster's private modules (1.13), each with its reason; web_server.py has the others."""

from __future__ import annotations

import contextlib
import math
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg
import sqlalchemy
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, WorkerStatus
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._core.storage.root import LocalArtifactStorage
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from dagster._utils.interrupts import check_captured_interrupt

from finetune_pipeline.engine.files import hold, make_private, replace_text
from finetune_pipeline.orchestration.abandoned import free_leftover_slots, is_abandoned, launch_tags, request_slot_again
from finetune_pipeline.settings import read_settings

if TYPE_CHECKING:
    from dagster._core.remote_representation.external import RemoteSchedule, RemoteSensor

WORKSPACE = Path(__file__).with_name("workspace.yaml")
"""Workspace file of Dagster's servers: loads the tasks of the project they are started in."""
SHORTEST_SLEEP, LONGEST_SLEEP = 0.02, 0.5
"""Seconds. A waiting run must soon notice that it was cancelled or that its other steps have ended."""
LOOK_SECONDS = 10.0
"""Seconds after which a waiting run looks again for slots of runs that are over."""


def dagster_folder() -> Path:
    """Return <home>/dagster, creating it if it does not exist."""
    folder = make_private(read_settings().home) / "dagster"
    folder.mkdir(exist_ok=True)
    return folder


def dagster_home() -> Path:
    """Write the instance settings into the folder that all commands use as DAGSTER_HOME, and return the folder.

    The settings come from this package, unless the project has a dagster.yaml at its root that names this package's storages.
    """
    settings = Path(__file__).with_name("dagster.yaml").read_text("utf-8")
    project_file = read_settings().project / "dagster.yaml"
    if project_file.is_file() and "finetune_pipeline" in (project_text := project_file.read_text("utf-8")):
        settings = project_text
    target = dagster_folder() / "dagster.yaml"
    if not target.is_file() or target.read_bytes() != settings.encode():
        replace_text(target, settings)
    return target.parent


class _BelowHome:
    """A part of Dagster's instance that needs no settings, since FINETUNE_HOME determines its folder.

    Dagster's public ``base_dir`` is a fixed text, relative to each process's working folder, or an environment variable that
    must be set before every ``dagster`` command (dagster-io/dagster pull request 11031).
    """

    @classmethod
    def config_type(cls) -> Any:
        return {}


class HomeStorage(_BelowHome, DagsterSqliteStorage):
    """Runs, events and schedules in SQLite files."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> HomeStorage:
        _reuse_engines()
        folder = dagster_folder()
        with hold(folder / ".history.lock"):  # if two processes create its tables at once, one fails in Dagster
            return cls.from_local(str(folder / "history"), inst_data)


@lru_cache(maxsize=32)
def _engine(address: str) -> sqlalchemy.Engine:
    """Create an engine that opens a connection per use, keeps none, and waits as long as Dagster for other writers."""
    timeout = {"timeout": SQLITE_BUSY_TIMEOUT_SECONDS}
    return sqlalchemy.create_engine(address, poolclass=sqlalchemy.NullPool, connect_args=timeout)


def _reuse_engines() -> None:
    """Make Dagster use one engine per SQLite file.

    By default it makes one per event, which compiles every statement again and takes 40% of the time of a run with quick
    steps. There is no setting for it, and we found no issue about it. If another version of Dagster makes its engines
    elsewhere, this has no effect.
    """
    for module in (sqlite_event_log, sqlite_run_storage):
        module.create_engine = lambda address, **_: _engine(address)  # type: ignore[attr-defined]


class HomeArtifacts(_BelowHome, LocalArtifactStorage):
    """Storage for Dagster's own IO managers (this pipeline's assets use none)."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> HomeArtifacts:
        return cls(str(dagster_folder()), inst_data)


class HomeComputeLogs(_BelowHome, LocalComputeLogManager):
    """Storage for standard output and error of every step."""

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> HomeComputeLogs:
        return cls(str(dagster_folder() / "compute_logs"), inst_data=inst_data)


class WatchingLauncher(_BelowHome, dg.DefaultRunLauncher):
    """Starts runs as Dagster does by default, and lets run monitoring notice runs whose process is gone.

    By default only the code server notices them. If it dies too, as after a power failure, the run stays started forever and
    keeps its slot of the pool.
    """

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> WatchingLauncher:
        return cls(inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        self._instance.add_run_tags(context.dagster_run.run_id, launch_tags())
        super().launch_run(context)

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        gone = is_abandoned(self._instance, run)
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND if gone else WorkerStatus.RUNNING, "its process was killed")


def watch_while_waiting() -> None:
    """Make runs of this process, while they wait for a slot of a pool, sleep, free slots of runs that are over, and obey a cancel.

    Dagster takes the minimum of the remaining times *and zero*, so every waiting run keeps one core busy, on a small machine
    for hours (dagster-io/dagster pull request 20367, closed without a fix). It leaves slots of killed runs to its daemon,
    which need not run, and a step that is executed in the run's process gets no signal before it begins. With other versions,
    this may have no effect.
    """
    InstanceConcurrencyContext.claim = _claim  # type: ignore[method-assign]
    InstanceConcurrencyContext.interval_to_next_pending_claim_check = _seconds_to_next_check  # type: ignore[method-assign]


_dagster_claim = InstanceConcurrencyContext.claim


def _claim(self: Any, concurrency_key: str, step_key: str, step_priority: int = 0) -> bool:
    """Claim a slot. If there is none, every :data:`LOOK_SECONDS`, free those of runs that are over."""
    if _dagster_claim(self, concurrency_key, step_key, step_priority):
        return True
    if time.monotonic() - getattr(self, "looked_at", -math.inf) >= LOOK_SECONDS:
        free_leftover_slots(self._instance)
        request_slot_again(self._instance, concurrency_key, self._run_id, step_key)
        self.looked_at = time.monotonic()
    time.sleep(SHORTEST_SLEEP)  # the executor with several processes asks again at once
    return False


def _seconds_to_next_check(self: Any) -> float:
    """Return the seconds until the next check of a slot; 0 if no step waits for one.

    Raises DagsterExecutionInterruptedError if the run was cancelled or ended elsewhere, or its process got a signal. The
    executor of one process calls it while it waits; the other one looks for signals itself.
    """
    if not self.has_pending_claims():
        return 0.0
    run = self._instance.get_run_by_id(self._run_id)
    if run is None or run.is_finished or run.status == dg.DagsterRunStatus.CANCELING:
        raise dg.DagsterExecutionInterruptedError
    if check_captured_interrupt():
        if getattr(self, "got_signal", False):
            raise dg.DagsterExecutionInterruptedError
        self.got_signal = True  # until the next call, who sent it may mark the run as cancelled
    now = time.time()
    remaining = [max(0.0, due - now) for due in getattr(self, "_pending_timeouts", {}).values()]
    return float(min([LONGEST_SLEEP, *remaining]))


def mirror_apart() -> None:
    """Start the processes that mirror a step's output in their own session, which Ctrl-C does not reach.

    They would print tracebacks, and they end with this process anyway.
    """
    from dagster._core.execution import compute_logs

    own_session = SimpleNamespace(Popen=partial(subprocess.Popen, start_new_session=True))
    compute_logs.subprocess = own_session  # type: ignore[assignment]


@dataclass(frozen=True)
class Instigator:
    """A sensor or a schedule of a loaded code location."""

    instance: dg.DagsterInstance
    remote: RemoteSensor | RemoteSchedule

    @property
    def name(self) -> str:
        return self.remote.name

    @property
    def is_on(self) -> bool:
        stored = self.instance.get_instigator_state(self.remote.get_remote_origin_id(), self.remote.selector_id)
        return self.remote.get_current_instigator_state(stored).is_running

    def switch(self, on: bool) -> None:
        """Start or stop it, if needed."""
        from dagster._core.remote_representation.external import RemoteSensor

        if self.is_on == on:
            return
        kind = "sensor" if isinstance(self.remote, RemoteSensor) else "schedule"
        origin, selector = self.remote.get_remote_origin_id(), self.remote.selector_id
        if on:
            getattr(self.instance, f"start_{kind}")(self.remote)
        else:
            getattr(self.instance, f"stop_{kind}")(origin, selector, self.remote)

    def state(self) -> dict[str, object]:
        """Return {name, on, when, reason}: whether it is on; time and outcome of its last tick, None if there was none."""
        when = reason = None
        for tick in self.instance.get_ticks(self.remote.get_remote_origin_id(), self.remote.selector_id, limit=1):
            when = datetime.fromtimestamp(tick.timestamp, UTC).strftime("%Y-%m-%d %H:%M")
            reason = tick.skip_reason or ""
            if tick.run_ids and not reason:
                reason = f"started {', '.join(run_id[:8] for run_id in tick.run_ids)}"
            elif tick.error and not reason:
                reason = tick.error.message.strip()
        return {"name": self.name, "on": self.is_on, "when": when, "reason": reason}


def dev_with(web_server: str) -> None:
    """Run the ``dagster`` command line, with `web_server` as the module of the web server that `dev` starts."""
    from dagster._cli import dev, main

    open_subprocess = dev.open_ipc_subprocess

    def open_with_web_server(parts: Sequence[str], **kwargs: Any) -> Any:
        return open_subprocess([web_server if part == "dagster_webserver" else part for part in parts], **kwargs)

    dev.open_ipc_subprocess = open_with_web_server
    main()


def shown_on_the_timeline(instance: dg.DagsterInstance) -> dg.DagsterInstance:
    """Make an instance's new runs name the code location of workspace.yaml, and return the instance.

    ``execute_in_process`` names none, and the timeline omits such runs.
    """
    from dagster._core.remote_origin import RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    (location,) = WorkspaceFileTarget([str(WORKSPACE)]).create_origins()
    repository = RemoteRepositoryOrigin(location, "__repository__")
    create = instance.create_run_for_job

    def create_run_for_job(job_def: dg.JobDefinition, *args: Any, **kwargs: Any) -> dg.DagsterRun:
        return create(job_def, *args, **{**kwargs, "remote_job_origin": RemoteJobOrigin(repository, job_def.name)})

    instance.create_run_for_job = create_run_for_job  # type: ignore[method-assign]
    return instance


@contextlib.contextmanager
def instigators(instance: dg.DagsterInstance, workspace: Path) -> Iterator[list[Instigator]]:
    """Yield all sensors and schedules of a workspace file, which is loaded while the block runs.

    There is no public interface to their state (dagster-io/dagster issue 12825), and ``dagster sensor start`` reloads
    all definitions for each of them.
    """
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    target = WorkspaceFileTarget([str(workspace)])
    with WorkspaceProcessContext(instance, target, code_server_log_level="WARNING") as process:
        context = process.create_request_context()
        repositories = [
            repository for location in context.code_locations for repository in location.get_repositories().values()
        ]
        remotes: list[RemoteSensor | RemoteSchedule] = []
        remotes += [sensor for repository in repositories for sensor in repository.get_sensors()]
        remotes += [schedule for repository in repositories for schedule in repository.get_schedules()]
        yield [Instigator(instance, remote) for remote in remotes]
