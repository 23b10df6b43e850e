"""``finetune automate TASK``: switch a task's sensors and its schedule on or off, or say what they last decided."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import dagster as dg

from finetune_pipeline.cli.environment import apply
from finetune_pipeline.cli.output import DONE, as_json, emit, get_task, say
from finetune_pipeline.settings import read_settings

if TYPE_CHECKING:
    from dagster._core.remote_representation.external import RemoteRepository, RemoteSchedule, RemoteSensor


@click.command()
@click.argument("task")
@click.option("--on", "wanted", flag_value="on", help="Start the sensors and the schedule.")
@click.option("--off", "wanted", flag_value="off", help="Stop them.")
@click.option("--status", "wanted", flag_value="status", default=True, help="Say what they are and last decided.")
@as_json
def automate(task: str, wanted: str, as_json: bool) -> int:
    """Sensors and schedule of TASK: new logs, drift, champion, retraining. They work while `finetune ui` runs."""
    apply()
    name, settings = get_task(task).name, read_settings()
    with dg.DagsterInstance.from_config(str(settings.project)) as instance:
        told = switch(instance, str(settings.project / "workspace.yaml"), name, wanted)
    if as_json:
        emit({"task": name, "automation": told})
        return DONE
    for row in told:
        say(f"{row['name']:40} {'on' if row['on'] else 'off':4} {row['when'] or '':17} {row['reason'] or ''}".rstrip())
    if wanted == "on":
        say("They work while `finetune ui` (or a Dagster daemon of yours) runs.")
    return DONE


def switch(instance: dg.DagsterInstance, workspace: str, task: str, wanted: str) -> list[dict[str, Any]]:
    """Switch on, off, or only look (`status`): {name, on, when, reason} of each; when and reason are those of the last tick.

    Raises ClickException where the workspace cannot be loaded or holds nothing of this task.
    """
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import WorkspaceFileTarget

    with WorkspaceProcessContext(instance, WorkspaceFileTarget([workspace])) as process:
        context = process.create_request_context()
        repositories = [r for location in context.code_locations for r in location.get_repositories().values()]
        mine = [i for repository in repositories for i in _of_task(repository, task)]
        if not mine:
            raise click.ClickException(
                f"Dagster knows nothing that runs {task} by itself: `finetune check {task}` says why"
            )
        for instigator in mine:
            if wanted != "status":
                _set(instance, instigator, wanted == "on")
        return [_told(instance, instigator) for instigator in mine]


def _of_task(repository: RemoteRepository, task: str) -> Sequence[RemoteSensor | RemoteSchedule]:
    found: list[RemoteSensor | RemoteSchedule] = [*repository.get_sensors(), *repository.get_schedules()]
    return [i for i in found if i.name.startswith(f"{task}__")]


def _state(instance: dg.DagsterInstance, instigator: RemoteSensor | RemoteSchedule) -> Any:
    stored = instance.get_instigator_state(instigator.get_remote_origin_id(), instigator.selector_id)
    return instigator.get_current_instigator_state(stored)


def _set(instance: dg.DagsterInstance, instigator: Any, on: bool) -> None:
    from dagster._core.remote_representation.external import RemoteSensor

    if _state(instance, instigator).is_running == on:
        return
    origin, selector = instigator.get_remote_origin_id(), instigator.selector_id
    if isinstance(instigator, RemoteSensor):
        if on:
            instance.start_sensor(instigator)
        else:
            instance.stop_sensor(origin, selector, instigator)
    elif on:
        instance.start_schedule(instigator)
    else:
        instance.stop_schedule(origin, selector, instigator)


def _told(instance: dg.DagsterInstance, instigator: RemoteSensor | RemoteSchedule) -> dict[str, Any]:
    ticks = instance.get_ticks(instigator.get_remote_origin_id(), instigator.selector_id, limit=1)
    when = reason = None
    if ticks:
        when = datetime.fromtimestamp(ticks[0].timestamp, UTC).strftime("%Y-%m-%d %H:%M")
        started = f"started {', '.join(i[:8] for i in ticks[0].run_ids)}" if ticks[0].run_ids else ""
        error = ticks[0].error.message.strip() if ticks[0].error else ""
        reason = ticks[0].skip_reason or started or error
    return {"name": instigator.name, "on": _state(instance, instigator).is_running, "when": when, "reason": reason}
