"""``finetune advise TASK``: prompt, retrieve, use a simple model, collect data first, or fine-tune."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.baseline.decision import DECISIONS, Advised
from finetune_pipeline.baseline.ladder import Ladder
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, apply_environment, as_json, get_task, problem, tell
from finetune_pipeline.cli.run import make_artifact
from finetune_pipeline.evaluation.costs import SimpleCost
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import inside
from finetune_pipeline.orchestration.assets import LADDER, TUNED_LADDER, TUNED_RUNGS
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.report.ladder_page import ladder_lines
from finetune_pipeline.spec import Task
from finetune_pipeline.steps.baseline import simple_costs

NEXT = {
    "no_signal": "check {}",
    "collect": "check {}",
    "prompt": "run {}",
    "retrieve": "run {}",
    "documents": "run {}",
    "simple": "run {}",
    "api": "plan {} --costs",
    "larger_model": "plan {} --costs",
    "pilot": "advise {} --measure",
    "undecided": "advise {} --tuned",
    "fine_tune": "run {}",
}
"""The command that follows each decision (DECISIONS)."""


def next_command(decision: str, task: str, run_ships_it: bool = True) -> str:
    """Return the command line that follows a decision.

    Args:
        run_ships_it: A run would train nothing, and ship what is good enough if the sealed test confirms it.
    """
    command = NEXT[decision]
    if command == "run {}" and decision != "fine_tune" and not run_ships_it:
        command = "export {} --simple --to DIR" if decision == "simple" else "plan {} --costs"
    return f"finetune {command.format(task)}"


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
    advice = advise_task(loaded)
    costs_line = ", ".join(
        f"{inside(SIMPLE_MODELS[name].title)} {cost.p50:,.1f} ms and {cost.megabytes:,.1f} MB"
        for name, cost in advice.simple_costs.items()
    )
    where = [f"  - a call alone takes, on this machine: {costs_line}"] if costs_line else []
    where += (
        [f"\nfigures and answers: {advice.folder} and its inputs; --json prints the figures"] if advice.folder else [""]
    )
    where.append(f"next: {advice.next}")
    headline = f"{loaded.name}: {DECISIONS[advice.decision]}"
    tell(advice.to_json(), headline, "", *(f"  - {reason}" for reason in advice.reasons), *where)
    return DONE if advice.fine_tune else REFUSED


@dataclass(frozen=True)
class Advice:
    """Whether a task is worth fine-tuning.

    Attributes:
        decision: What to do; a key of DECISIONS.
        sentence: The decision in words.
        figures: Of the decision, as the step `advice` stores them; empty if the data stage was stopped.
        simple_costs: Of each simple model: time and size.
        folder: The artifact; None if the data stage was stopped.
        next: The command that follows.
    """

    task: str
    decision: str
    fine_tune: bool
    sentence: str
    reasons: list[str]
    figures: dict[str, Any] = field(default_factory=dict)
    simple_costs: dict[str, SimpleCost] = field(default_factory=dict)
    folder: Path | None = None
    next: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the advice as plain JSON, with its figures beside the decision."""
        result = {key: value for key, value in asdict(self).items() if key not in ("figures", "folder")}
        costs = {name: cost.to_json() for name, cost in self.simple_costs.items()}
        return {**self.figures, **result, "simple_costs": costs}


def advise_task(task: Task) -> Advice:
    """Run the stages data and baseline if needed, and say whether the task is worth fine-tuning.

    Raises ClickException if a step fails.
    """
    apply_environment()
    advice = None
    _, stopped, failed = make_artifact(task, "data", "data_quality")
    if not stopped and not failed:
        advice, refused, failed = make_artifact(task, "baseline", "advice")
        failed += refused if advice is None else []
    if failed:
        raise click.ClickException("\n".join([*failed, *stopped]))
    if advice is None:
        first = "No model was asked yet: fix this first. `finetune check` lists every affected row."
        command = next_command("collect", task.name)
        return Advice(task.name, "collect", False, DECISIONS["collect"], [*stopped, first], next=command)
    baseline = Store().artifacts().find(task.name, "few_shot_baseline", advice.inputs["few_shot_baseline"])
    costs = simple_costs(baseline) if baseline else {}
    facts = advice.read(Advised)
    given, power, worth = facts.advice, facts.power, facts.worth_training
    figures = {**given.to_json(), "power": power.to_json(), "worth_training": worth.to_json()}
    command = next_command(given.decision, task.name, worth.skips_training(task.spec))
    return Advice(
        task.name,
        given.decision,
        given.fine_tune,
        given.sentence,
        given.reasons,
        figures,
        costs,
        advice.folder,
        command,
    )


def _climb(task: Task, tuned: bool) -> int:
    step, job = (TUNED_RUNGS, TUNED_LADDER) if tuned else ("ladder", LADDER)
    artifact, stopped, failed = make_artifact(task, job, step)
    if artifact is None:
        problem(*failed, *stopped)
        return ERROR if failed else REFUSED
    if artifact.skipped:
        fix = f"set gates.worth_training: warn in {task.name}/task.yaml, and measure again"
        raise click.ClickException(f"{task.name} has no tuned model to measure: {artifact.skipped}\nfix: {fix}")
    result, page = artifact.read(Ladder), str(artifact.path("ladder.html"))
    no_rung_left = tuned and result.decision == "undecided"  # limits of cost or latency exclude all
    command = next_command("api" if no_rung_left else result.decision, task.name)
    facts = {"task": task.name, **result.to_json(), "page": page, "next": command}
    tell(facts, *ladder_lines(task.name, result), "", f"page: {page}", f"next: {command}")
    return DONE if result.decision == "fine_tune" else REFUSED
