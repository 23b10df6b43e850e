"""``finetune forget TASK``: removes a person's rows and blocks models trained on them."""

from dataclasses import asdict

import click

from finetune_pipeline.cli.output import DONE, ERROR, as_json, get_task, problem, tell
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.production.forget import forget as remove
from finetune_pipeline.production.forget import trained_models
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking


@click.command()
@click.argument("task")
@click.option("--user", "users", multiple=True, help="User, as named in the logs. May be given several times.")
@click.option("--id", "ids", multiple=True, help="Id of a log row. May be given several times.")
@as_json
def forget(task: str, users: tuple[str, ...], ids: tuple[str, ...], as_json: bool) -> int:
    """Remove the rows of a user, or rows by id, from the task's logs, from all data made of them, and from future training.

    Rows are found by user and id, their artifacts by lineage; texts are not searched. Models trained on them are listed
    and can no longer become champion; the next `finetune run TASK` trains one without them. Later rows of a forgotten user
    are ignored, too. Lists the stores searched and those out of reach. Can be interrupted and repeated.
    """
    loaded = get_task(task)
    if not users + ids or not all(map(str.strip, users + ids)):
        raise click.UsageError("give --user or --id, and not an empty one")
    store, tracking = Store().artifacts(), Tracking()
    tracking.prepare()
    done = remove(loaded, store, users, ids)
    blocked = registry.block_forgotten(tracking, loaded.name, done.splits)
    serving = registry.champion(tracking, loaded.name)
    models = trained_models(store, loaded.name, done.splits)
    lines = [
        f"deleted: {', '.join(done.artifacts) or 'no artifact'}\n\nsearched",
        *(f"  {of.store}: {of.found} found and removed, {of.left} left" for of in done.searched),
        *(
            f"  reviews/{place} still holds a decision about one of these rows: remove the line"
            for place in done.decisions
        ),
        "\nout of reach",
        *(f"  {place}" for place in done.out_of_reach),
        "",
    ]
    for adapter in done.adapters:
        version = next((m["model_version"] for m in models if m["adapter"] == adapter), None)
        lines.append(f"trained on them: adapter {adapter}" + (f", registered as version {version}" if version else ""))
    numbers = ", ".join(f"version {v}" for v in blocked) or "none registered"
    trained = f"blocked from promotion: {numbers}" if done.adapters or blocked else "no model was trained on them"
    facts = {"task": loaded.name, **asdict(done), "blocked": blocked, "champion": serving, "models": models}
    tell(as_json, facts, *lines, trained)
    if serving in blocked:
        problem(
            f"version {serving} of them is champion and serves still: `finetune run {loaded.name}` trains one without"
        )
    meanwhile = store.building(loaded.name)  # begun while the rows were still there
    if meanwhile or any(of.left for of in done.searched):
        problem(
            f"such rows may be left: a run of {loaded.name} writes at the same time",
            "fix: wait for it or cancel it, and run this again",
        )
        return ERROR
    return DONE
