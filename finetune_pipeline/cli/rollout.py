"""``finetune rollout TASK``: shows how the rollout of a candidate goes, takes its next step, or ends it."""

from dataclasses import asdict

import click
import msgspec

from finetune_pipeline.cli.output import DONE, as_json, get_task, tell
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.orchestration.rollout import watch_rollout
from finetune_pipeline.production.rollout import stages_of
from finetune_pipeline.production.shadow import shadow_lines
from finetune_pipeline.production.share import share_lines
from finetune_pipeline.tracking import rollouts
from finetune_pipeline.tracking.tracking import Tracking


@click.command()
@click.argument("task")
@click.option("--step", is_flag=True, help="Take the step that the rows allow, as the champion's sensor does.")
@click.option("--stop", metavar="WHY", help="End the rollout: the champion serves on. The reason is stored in MLflow.")
@as_json
def rollout(task: str, step: bool, stop: str | None) -> int:
    """Show, step or stop the rollout of a new version.

    With the key `rollout`, a version that passed its gates first answers behind the champion, then growing shares of the users.
    `finetune serve TASK` follows the stages, and the sensor TASK__champion takes the steps. A version whose rollout ended is not
    promoted any more.
    """
    if step and stop is not None:
        raise click.UsageError("give --step or --stop, not both")
    loaded = get_task(task)
    tracking = Tracking()
    going = rollouts.present(tracking, loaded.name)
    if loaded.spec.rollout is None and going is None:
        raise click.ClickException(
            f"task.yaml of {loaded.name} declares no rollout: a version that passed its gates serves at once\n"
            "fix: add `rollout: {}`; `finetune docs production` explains it"
        )
    if stop is not None:
        if going is None:
            raise click.ClickException(f"no rollout of {loaded.name} goes on")
        rollouts.stop(tracking, loaded.name, going, f"stopped by a person: {stop}")
        said = f"{loaded.name}: the rollout of version {going.candidate} has ended; version {going.champion} serves on."
        tell({"task": loaded.name, "rollout": None, "sentence": said}, said)
        return DONE
    try:
        state = watch_rollout(loaded, Store().artifacts(), tracking, act=step)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    if state is None:
        said = f"no rollout of {loaded.name} goes on"
        tell({"task": loaded.name, "rollout": None, "sentence": said}, said)
        return DONE
    judged = state.judged
    stages = " → ".join(
        f"[{s}]" if s == state.rollout.alias else s for s in stages_of(loaded.spec, state.rollout.percent)
    )
    lines = [f"{loaded.name}: {state.sentence}", f"stages: {stages}"]
    lines += ["", *shadow_lines(judged.shadow, loaded.name)] if judged.shadow else []
    lines += ["", *share_lines(judged.share)] if judged.share else []
    facts = {"rollout": msgspec.structs.asdict(state.rollout), "judged": asdict(judged), "done": state.done}
    tell(
        {"task": loaded.name, "sentence": state.sentence, **facts, "page": str(state.page)},
        *lines,
        "",
        f"page: {state.page}",
    )
    return DONE
