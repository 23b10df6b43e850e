"""``finetune rollback TASK``: moves `champion` back to the previous version and records the reason in MLflow."""

import click

from finetune_pipeline.cli.output import DONE, as_json, get_task, tell
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking


@click.command()
@click.argument("task")
@click.option("--reason", default="", help="Reason; stored with the version in MLflow.")
@as_json
def rollback(task: str, reason: str) -> int:
    """Swap the alias `champion` of TASK with `previous_champion`; a second call swaps back.

    The version that served until now becomes `previous_champion`. It is marked in MLflow with the time and the reason, and
    no run promotes it again.
    """
    name, tracking = get_task(task).name, Tracking()
    try:
        champion = registry.rollback(tracking, name, reason)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    previous = registry.aliases(tracking, name).get(registry.PREVIOUS)
    tell(
        {"task": name, "champion": champion, "previous_champion": previous, "reason": reason or None},
        f"{name}: version {champion} is champion again; version {previous} is retired, and no run promotes it again.",
        "`finetune serve` switches by itself, and a server that loads the alias switches at its next start. A server of an",
        f"exported folder needs\n  finetune export {name} --to DIR --alias champion",
    )
    return DONE
