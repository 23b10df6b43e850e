"""``finetune automate TASK``: switches a task's sensors and schedule on or off, or shows what they last decided."""

from pathlib import Path
from typing import Any

import click
import dagster as dg

from finetune_pipeline.cli.output import DONE, apply_environment, as_json, get_task, tell
from finetune_pipeline.orchestration.dagster_internals import WORKSPACE, instigators


@click.command()
@click.argument("task")
@click.option("--on", is_flag=True, help="Start the sensors and the schedule.")
@click.option("--off", is_flag=True, help="Stop them.")
@click.option("--status", is_flag=True, help="Show them and what they last decided (default).")
@as_json
def automate(task: str, on: bool, off: bool, status: bool, as_json: bool) -> int:
    """Control the sensors and schedule of TASK: new logs, drift, champion, retraining. They work while `finetune ui` runs."""
    if on + off + status > 1:
        raise click.UsageError("give only one of --on, --off and --status")
    wanted = "on" if on else "off" if off else "status"
    name = get_task(task).name
    apply_environment()
    with dg.DagsterInstance.get() as instance:
        rows = switch(instance, WORKSPACE, name, wanted)
    lines = [
        f"{row['name']:40} {'on' if row['on'] else 'off':4} {row['when'] or '':17} {row['reason'] or ''}".rstrip()
        for row in rows
    ]
    lines += ["They work while `finetune ui` (or your own Dagster daemon) runs."] * (wanted == "on")
    tell(as_json, {"task": name, "automation": rows}, *lines)
    return DONE


def switch(instance: dg.DagsterInstance, workspace: Path, task: str, wanted: str) -> list[dict[str, Any]]:
    """Switch on or off, or only report (`status`): {name, on, when, reason} of each, from its last tick.

    Raises ClickException if the workspace cannot be loaded or does not contain this task.
    """
    with instigators(instance, workspace) as known:
        own = [instigator for instigator in known if instigator.name.startswith(f"{task}__")]
        if not own:
            raise click.ClickException(
                f"Dagster has nothing that runs {task} by itself: `finetune check {task}` says why"
            )
        if wanted != "status":
            for instigator in own:
                instigator.switch(wanted == "on")
        return [instigator.state() for instigator in own]
