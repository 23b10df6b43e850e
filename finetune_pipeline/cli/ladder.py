"""``finetune ladder TASK``: prompt first, retrieve second, fine-tune third, each measured."""

import click

from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, apply_environment, as_json, get_task, problem, tell
from finetune_pipeline.cli.run import make_artifact
from finetune_pipeline.orchestration.assets import LADDER, TUNED_LADDER, TUNED_RUNGS
from finetune_pipeline.report.ladder_page import ladder_lines


@click.command()
@click.argument("task")
@click.option("--tuned", is_flag=True, help="Train on all rows as well, and put the tuned model on the ladder.")
@as_json
def ladder(task: str, tuned: bool) -> int:
    """Compare prompting, retrieval and training for TASK: simple models, prompts, retrieval, a pilot.

    Stops at the rung that answers the question. Results are kept: after a kill, run it again to continue.
    Exit code 2: the answer is no or not certain.
    """
    loaded = get_task(task)
    apply_environment()
    step, job = (TUNED_RUNGS, TUNED_LADDER) if tuned else ("ladder", LADDER)
    artifact, stopped, failed = make_artifact(loaded, job, step)
    if artifact is None:
        problem(*failed, *stopped)
        return ERROR if failed else REFUSED
    result = Ladder.model_validate(artifact.facts)
    page = str(artifact.path("ladder.html"))
    facts = {"task": loaded.name, **result.model_dump(), "page": page}
    tell(facts, *ladder_lines(loaded.name, result), "", f"page: {page}")
    return DONE if result.decision == "fine_tune" else REFUSED
