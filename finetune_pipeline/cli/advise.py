"""``finetune advise TASK``: prompt, retrieve, use a simple model, collect data first, or fine-tune."""

import click

from finetune_pipeline.baseline.decision import DECISIONS
from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, apply_environment, as_json, get_task, problem, tell
from finetune_pipeline.cli.run import make_artifact
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.step_facts import SimpleCost
from finetune_pipeline.evaluation.wording import inside
from finetune_pipeline.orchestration.assets import LADDER, TUNED_LADDER, TUNED_RUNGS
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.report.ladder_page import ladder_lines
from finetune_pipeline.spec import Task
from finetune_pipeline.steps.baseline import simple_costs


@click.command()
@click.argument("task")
@click.option("--measure", is_flag=True, help="Climb the ladder: also train on parts of the rows, up to what decides.")
@click.option(
    "--tuned", is_flag=True, help="As --measure, and train on all rows: the tuned model stands on the ladder."
)
@as_json
def advise(task: str, measure: bool, tuned: bool) -> int:
    """Say whether TASK is worth fine-tuning, and why: from what prompts, retrieval and models of words do on validation.

    Runs the stages data and baseline if needed, and trains nothing without --measure. Results are kept: after a kill,
    run it again to continue. Exit code 2: the answer is no, not yet, or not certain.
    """
    loaded = get_task(task)
    apply_environment()
    if measure or tuned:
        return _climb(loaded, tuned)
    advice, costs = None, dict[str, SimpleCost]()
    _, stopped, failed = make_artifact(loaded, "data", "data_quality")
    if not stopped and not failed:
        advice, refused, failed = make_artifact(loaded, "baseline", "advice")
        failed += refused if advice is None else []
    if failed:
        raise click.ClickException("\n".join([*failed, *stopped]))
    if advice:
        result = {**advice.facts["advice"], **{key: advice.facts[key] for key in ("power", "worth_training")}}
        baseline = Store().artifacts().find(loaded.name, "few_shot_baseline", advice.inputs["few_shot_baseline"])
        costs = simple_costs(baseline) if baseline else {}
        result["simple_costs"] = {name: cost.model_dump() for name, cost in costs.items()}
    else:
        first = "No model was asked yet: fix this first. `finetune check` lists every affected row."
        sentence = DECISIONS["collect"]
        result = {"decision": "collect", "fine_tune": False, "sentence": sentence, "reasons": [*stopped, first]}
    costs_line = ", ".join(
        f"{inside(SIMPLE_MODELS[name].title)} {cost.p50:,.1f} ms and {cost.megabytes:,.1f} MB"
        for name, cost in costs.items()
    )
    where = [f"  - a call alone takes, on this machine: {costs_line}"] if costs else []
    where += [f"\nfigures and answers: {advice.folder} and its inputs; --json prints the figures"] if advice else []
    headline = f"{loaded.name}: {DECISIONS[result['decision']]}"
    reasons = (f"  - {reason}" for reason in result["reasons"])
    tell({"task": loaded.name, **result}, headline, "", *reasons, *where)
    return DONE if result["fine_tune"] else REFUSED


def _climb(task: Task, tuned: bool) -> int:
    step, job = (TUNED_RUNGS, TUNED_LADDER) if tuned else ("ladder", LADDER)
    artifact, stopped, failed = make_artifact(task, job, step)
    if artifact is None:
        problem(*failed, *stopped)
        return ERROR if failed else REFUSED
    result, page = Ladder.model_validate(artifact.facts), str(artifact.path("ladder.html"))
    tell(
        {"task": task.name, **result.model_dump(), "page": page}, *ladder_lines(task.name, result), "", f"page: {page}"
    )
    return DONE if result.decision == "fine_tune" else REFUSED
