"""``finetune automate TASK``: switches a task's sensors and schedule on or off, or shows what they last decided."""

from pathlib import Path

import click
import dagster as dg

from finetune_pipeline.cli.output import DONE, apply_environment, as_json, get_task, tell
from finetune_pipeline.orchestration.dagster_internals import WORKSPACE, instigators


@click.command()
@click.argument("task")
@click.option("--on", is_flag=True, help="Start the sensors and the schedule.")
@click.option("--off", is_flag=True, help="Stop them.")
@as_json
def automate(task: str, on: bool, off: bool) -> int:
    """Control the sensors and schedule of TASK: new logs, drift, champion, retraining. Without an option, show them and what
    they last decided. They work while `finetune ui` runs.
    """
    if on and off:
        raise click.UsageError("give only one of --on and --off")
    action = "on" if on else "off" if off else "status"
    name = get_task(task).name
    apply_environment()
    with dg.DagsterInstance.get() as instance:
        rows = switch(instance, WORKSPACE, name, action)
    lines = [
        f"{row['name']:40} {'on' if row['on'] else 'off':4} {row['when'] or '':17} {row['reason'] or ''}".rstrip()
        for row in rows
    ]
    lines += ["They work while `finetune ui` (or your own Dagster daemon) runs."] * (action == "on")
    tell({"task": name, "automation": rows}, *lines)
    return DONE


def switch(instance: dg.DagsterInstance, workspace: Path, task: str, action: str) -> list[dict[str, object]]:
    """Switch sensors and schedule on or off, or only report them (`status`). Returns {name, on, when, reason} from each last tick.

    Raises ClickException if the workspace cannot be loaded or does not contain this task.
    """
    with instigators(instance, workspace) as all_instigators:
        task_instigators = [each for each in all_instigators if each.name.rpartition("__")[0] == task]
        if not task_instigators:
            raise click.ClickException(
                f"Dagster has nothing that runs {task} by itself: `finetune check {task}` says why"
            )
        if action != "status":
            for instigator in task_instigators:
                instigator.switch(action == "on")
        return [instigator.state() for instigator in task_instigators]
