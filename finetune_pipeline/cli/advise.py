"""``finetune advise TASK``: prompt, retrieve, use a simple model, collect data first, or fine-tune. Trains nothing."""

from __future__ import annotations

from typing import Any

import click

from finetune_pipeline.baseline.advice import DECISIONS
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, apply_environment, as_json, emit, get_task, problem, say
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
            problem(*failed, *stopped)
            return ERROR
        if stopped:
            break
    advice = open_project(loaded).artifacts()["advice"]
    result = _without_evidence(stopped) if advice is None else _of(advice)
    if as_json:
        emit({"task": loaded.name, **result})
    else:
        say(f"{loaded.name}: {DECISIONS[result['decision']]}", "", *(f"  - {reason}" for reason in result["reasons"]))
        if advice is not None:
            say(f"\nfigures and answers: {advice.folder} and its inputs; --json prints the figures")
    return DONE if result["fine_tune"] else REFUSED


def _of(advice: Artifact) -> dict[str, Any]:
    facts = advice.facts
    return {**facts["advice"], "power": facts["power"], "worth_training": facts["worth_training"]}


def _without_evidence(stopped: list[str]) -> dict[str, Any]:
    """The advice after the data stage stopped: nothing can be measured on these rows."""
    return {
        "decision": "collect",
        "fine_tune": False,
        "sentence": DECISIONS["collect"],
        "reasons": [
            *stopped,
            "No model was asked yet: fix this first. `finetune check` lists every affected row.",
        ],
    }
