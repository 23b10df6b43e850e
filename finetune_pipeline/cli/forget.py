"""``finetune forget TASK``: removes a person's rows and blocks models trained on them."""

from dataclasses import asdict

import click

from finetune_pipeline.cli.output import DONE, ERROR, as_json, get_task, problem, tell
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.production.erasure import forget as remove
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.logged_pages import remove_pages
from finetune_pipeline.tracking.tracking import Tracking


@click.command()
@click.argument("task")
@click.option("--user", "users", multiple=True, help="User, as named in the logs. May be given several times.")
@click.option("--id", "ids", multiple=True, help="Id of a log row. May be given several times.")
@as_json
def forget(task: str, users: tuple[str, ...], ids: tuple[str, ...]) -> int:
    """Remove rows of TASK by user or id: from its logs, from all data made from them, and from future training.

    Rows are found by user and id, their artifacts by lineage; texts are not searched. Models trained on them are listed
    and can no longer become champion; the next `finetune run TASK` trains one without them. Simple models and prompts that
    contain rows of the same data are removed, also the champion. Later rows of a forgotten user are ignored, too. Lists the
    stores searched and those out of reach. Can be interrupted and repeated.
    """
    loaded = get_task(task)
    if not users + ids or not all(map(str.strip, users + ids)):
        raise click.UsageError("give --user or --id, and not an empty one")
    store, tracking = Store().artifacts(), Tracking()
    tracking.prepare()
    pages: list[str] = []
    removed = remove(
        loaded, store, users, ids, lambda versions: pages.extend(remove_pages(tracking, loaded.name, versions))
    )
    blocked = registry.block_forgotten(tracking, loaded.name, removed.splits, removed.adapters)
    before = registry.champion(tracking, loaded.name)
    files_removed = registry.remove_forgotten(tracking, loaded.name, removed.splits)
    serving = registry.champion(tracking, loaded.name)
    lines = [
        f"deleted: {', '.join(removed.artifacts) or 'no artifact'}\n\nsearched",
        *(f"  {search.store}: {search.found} found and removed, {search.left} left" for search in removed.searched),
        f"  MLflow's copies of reports: {len(pages)} found and removed",
        *(
            f"  reviews/{place} still holds a decision about one of these rows: remove the line"
            for place in removed.decisions
        ),
        *(
            ["\nnobody can tell whose these lines are: read them, and remove those to be forgotten"]
            * bool(removed.unclear)
        ),
        *(f"  {place}" for place in removed.unclear),
        "\nout of reach",
        *(f"  {place}" for place in removed.out_of_reach),
        "",
    ]
    for adapter in removed.adapters:
        version = next((m.model_version for m in removed.models if m.adapter == adapter), None)
        lines.append(f"trained on them: adapter {adapter}" + (f", registered as version {version}" if version else ""))
    blocked_versions = ", ".join(f"version {v}" for v in blocked) or "none registered"
    was_trained = removed.adapters or blocked
    trained = f"blocked from promotion: {blocked_versions}" if was_trained else "no model was trained on them"
    facts = {"blocked": blocked, "files_removed": files_removed, "pages_removed": pages, "champion": serving}
    tell({"task": loaded.name, **asdict(removed), **facts}, *lines, trained)
    if serving in blocked:
        problem(
            f"version {serving}, trained on them, is still champion: `finetune run {loaded.name}` trains one without them"
        )
    if before in files_removed:
        problem(
            f"version {before}, the champion, contained such rows: its files are removed and nothing can be served: "
            f"`finetune run {loaded.name}` makes a new one; stop any `finetune serve`, which still has it in memory"
        )
    meanwhile = store.building(loaded.name)  # started before the rows were removed
    if meanwhile or any(search.left for search in removed.searched):
        problem(
            f"such rows may be left: a run of {loaded.name} writes at the same time",
            "fix: wait for it or cancel it, and run this again",
        )
        return ERROR
    return DONE
