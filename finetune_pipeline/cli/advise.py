"""``finetune advise TASK``: prompt, retrieve, use a simple model, collect data first, or fine-tune. Trains nothing."""

from __future__ import annotations

from typing import Any

import click

from finetune_pipeline.baseline.advice import DECISIONS
from finetune_pipeline.cli.output import DONE, REFUSED, apply_environment, as_json, get_task, tell
from finetune_pipeline.cli.project import open_project
from finetune_pipeline.cli.run import run_job
from finetune_pipeline.engine.store import Artifact

NEEDED = {"data": ("splits", "data_quality"), "baseline": ("advice",)}
"""Stages to run, in this order, unless these steps are up to date."""


@click.command()
@click.argument("task")
@as_json
def advise(task: str, as_json: bool) -> int:
    """Say whether TASK is worth fine-tuning, and why: from what prompts, retrieval and models of words do on validation.

    Runs the stages data and baseline if needed, and trains nothing. Exit code 2: the answer is no, or not
    yet.
    """
    loaded = get_task(task)
    apply_environment()
    stopped: list[str] = []
    for stage, steps in NEEDED.items():
        made = open_project(loaded).artifacts()
        if all(made[step] for step in steps):
            continue
        stopped, failed = run_job(loaded, stage, quiet=as_json)
        if failed or (stopped and stage == "baseline" and open_project(loaded).artifacts()["advice"] is None):
            raise click.ClickException("\n".join([*failed, *stopped]))
        if stopped:
            break
    advice = open_project(loaded).artifacts()["advice"]
    result = _result(advice, stopped)
    where = [f"\nfigures and answers: {advice.folder} and its inputs; --json prints the figures"] if advice else []
    headline = f"{loaded.name}: {DECISIONS[result['decision']]}"
    reasons = (f"  - {reason}" for reason in result["reasons"])
    tell(as_json, {"task": loaded.name, **result}, headline, "", *reasons, *where)
    return DONE if result["fine_tune"] else REFUSED


def _result(advice: Artifact | None, stopped: list[str]) -> dict[str, Any]:
    if advice:
        return {**advice.facts["advice"], **{key: advice.facts[key] for key in ("power", "worth_training")}}
    first = "No model was asked yet: fix this first. `finetune check` lists every affected row."
    return {
        "decision": "collect",
        "fine_tune": False,
        "sentence": DECISIONS["collect"],
        "reasons": [*stopped, first],
    }
