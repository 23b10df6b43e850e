"""EVALUATION: general ability of the base model and of the candidate, on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.ability.drop import ability_drop, read_rows
from finetune_pipeline.evaluation.ability.harness_tasks import asked_digest, read_tasks
from finetune_pipeline.evaluation.ability.items import Item, load_items
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.identity import served
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.champion import champion_of
from finetune_pipeline.steps.kept_answers import answers_of
from finetune_pipeline.worker.jobs import ability_job


def ability_files(task: Task) -> list[Path]:
    """The benchmark files of a task, sorted. Raises FindingsError for every glob that matches nothing."""
    found, missing = [], []
    for pattern in task.spec.ability.files:
        paths = sorted(p for p in task.folder.glob(pattern) if p.is_file())
        found += paths
        if not paths:
            missing.append(
                Finding(
                    "ability.files",
                    "error",
                    "task.yaml: ability.files",
                    f"{pattern!r} matches no file",
                    "correct the pattern, or take it out",
                )
            )
    if missing:
        raise FindingsError(missing)
    return sorted(set(found))


def asked_items(task: Task) -> list[Item]:
    """What models are asked for this task. Raises FindingsError for files that are not there or hold other things."""
    told = task.spec.ability
    return load_items(ability_files(task), told.rows_per_file, told.suite)


def ability_digest(task: Task) -> str:
    """Digest of all that models are asked besides the task. Raises FindingsError for what cannot be asked."""
    told = task.spec.ability.harness
    items, found = [], []
    try:
        items = asked_items(task)
    except FindingsError as error:
        found = error.findings
    try:
        tasks = read_tasks(task.folder, told.tasks)
    except FindingsError as error:
        found += error.findings
    if found:
        raise FindingsError(found)
    return asked_digest(items, tasks, told.limit, told.chat)


def _score(work: StepContext, model: Path, adapter: Path | None, stage: str, out: Path) -> dict[str, Any]:
    harness = work.spec.ability.harness
    if not asked_items(work.task) and not harness.tasks:
        return {"items": 0, "sentence": "nothing is asked: ability.suite is off, and there are neither files nor tasks"}
    facts = work.launch(
        ability_job(
            model=model,
            adapter=adapter,
            files=ability_files(work.task),
            limit=work.spec.ability.rows_per_file,
            suite=work.spec.ability.suite,
            batch_size=work.spec.baseline.batch_size,
            out=out,
            answers=answers_of(work),
            stage=stage,
            harness={"folder": str(work.task.folder), **harness.model_dump()} if harness.tasks else None,
        )
    )
    if facts["asked_digest"] != work.world.ability:
        raise RuntimeError(
            f"files of the section ability of {work.task.name} changed since this run began; run it again"
        )
    return facts


def make_base_ability(work: StepContext) -> dict[str, Any]:
    """The base model's answers, made once for all candidates."""
    return _score(work, work.inputs["base_model"].folder, None, "base_ability", work.out)


def make_general_ability(work: StepContext) -> dict[str, Any]:
    """The candidate's answers, and what was lost against the base: see evaluation.ability.drop.ability_drop.

    Where there is a champion, it is asked the same: champion {n, before, after, drop, interval, lost, gained, mcnemar_p,
    categories}, the candidate against it.
    """
    model = served(work.inputs["merged_model"], work.inputs["base_model"])
    facts = _score(work, model.model, model.adapter, "general_ability", work.out)
    if not facts["items"]:
        return facts
    before = read_rows(work.inputs["base_ability"].folder)
    after, confidence = read_rows(work.out), work.spec.gates.confidence
    return {**facts, **ability_drop(before, after, confidence), "champion": _against_champion(work, after, confidence)}


def _against_champion(work: StepContext, candidate: list[dict[str, Any]], confidence: float) -> dict[str, Any] | None:
    if not work.world.champion:
        return None
    model = served(*champion_of(work))
    _score(work, model.model, model.adapter, "general_ability", work.out / "champion")
    told = ability_drop(read_rows(work.out / "champion"), candidate, confidence)
    return {name: told[name] for name in _AGAINST_CHAMPION}


_AGAINST_CHAMPION = ("n", "before", "after", "drop", "interval", "lost", "gained", "mcnemar_p", "categories")
