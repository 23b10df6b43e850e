"""``finetune ladder TASK``: prompt first, retrieve second, fine-tune third; each measured, with what would change the answer."""

from __future__ import annotations

import click
import dagster as dg

from finetune_pipeline.baseline.ladder import read_ladder
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, apply_environment, as_json, emit, get_task, problem, say
from finetune_pipeline.cli.project import open_project
from finetune_pipeline.cli.run import execute, refusals_and_failures
from finetune_pipeline.orchestration.assets import LADDER, TUNED_LADDER, TUNED_RUNGS
from finetune_pipeline.report.ladder_page import ladder_lines


@click.command()
@click.argument("task")
@click.option("--tuned", is_flag=True, help="Train on all rows as well, and put the tuned model on the ladder.")
@as_json
def ladder(task: str, tuned: bool, as_json: bool) -> int:
    """Climb the rungs below training for TASK: simple models, prompts, a searched prompt, retrieval, and a pilot training.

    Stops at the rung that answers the question. What was measured is kept: run it again after a kill, and it goes on.
    Exit code 2: the answer is no, or not sure.
    """
    apply_environment()
    loaded = get_task(task)
    step, job = (TUNED_RUNGS, TUNED_LADDER) if tuned else ("ladder", LADDER)
    made = open_project(loaded).artifacts()[step]
    if made is None:
        with dg.DagsterInstance.get() as instance:
            result = execute(loaded, job, instance, open_project(loaded), quiet=as_json)
        refused, failed = refusals_and_failures(result)
        made = open_project(loaded).artifacts()[step]
        if made is None:
            for line in [*(message for _, _, message in refused), *(f"{name} failed: {text}" for name, text in failed)]:
                problem(line)
            return ERROR if failed else REFUSED
    answer = read_ladder(made.facts)
    if as_json:
        emit({"task": loaded.name, **answer.model_dump(), "page": str(made.path("ladder.html"))})
    else:
        for line in [*ladder_lines(loaded.name, answer), "", f"page: {made.path('ladder.html')}"]:
            say(line)
    return DONE if answer.decision == "fine_tune" else REFUSED
