"""Collects the inputs of a run: everything outside the graph that its results depend on."""

from finetune_pipeline.data.documents import documents_digest
from finetune_pipeline.data.people import read_people
from finetune_pipeline.data.raw_files import raw_digest
from finetune_pipeline.data.review import reviews_digest
from finetune_pipeline.data.split.ledger import ledger_name
from finetune_pipeline.data.unlabelled import unlabelled_digest
from finetune_pipeline.engine.step import Champion, RunInputs
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.reviewers import reviewers_agreement
from finetune_pipeline.models.chat_templates import template_identity
from finetune_pipeline.models.identity import base_identity
from finetune_pipeline.production.log_merging import Logs, corrections_digest, read_logs
from finetune_pipeline.production.logged_answers import logged_digest, questions_by_people
from finetune_pipeline.production.used_rows import judging_digest, learned_by
from finetune_pipeline.review.ratings import ratings_digest
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.ability import ability_digest
from finetune_pipeline.steps.data import benchmark_files
from finetune_pipeline.steps.preferences import preferences_of, preferred_stages


def base_of(task: Task) -> dict[str, object]:
    """Return the identity of the task's base model and chat template; equal for equal weights and template.

    Raises FindingsError if the model or the template's file cannot be found.
    """
    spec = task.spec
    return {**base_identity(spec.base_model, spec.base_revision), **template_identity(spec.chat_template, task.folder)}


def collect_run_inputs(task: Task, champion: Champion | None, store: ArtifactStore) -> RunInputs:
    """Collect the current inputs of a run; new log lines are ingested into the store.

    champion: the model to compare a candidate with, or None.

    Raises FindingsError if there are no raw files, or if the base model or the never-break list cannot be found.
    """
    logs = read_logs(task, store)
    return RunInputs(
        raw=raw_digest(task, store.seen_files(task.name), benchmark_files(task)),
        reviews=reviews_digest(task.folder / "reviews"),
        logs=logs.digest,
        corrections=corrections_digest(task.spec, logs),
        base=base_of(task),
        champion=champion,
        never_break=task.spec.gates.never_break_ids(task.folder),
        ratings=ratings_digest(task.folder / "reviews"),
        ability=ability_digest(task),
        judging=judging_digest(task.spec, logs, learned_by(store, task.name, champion)),
        documents=documents_digest(task.folder),
        preferences=preferences_of(task, logs),
        preferred=preferred_stages(task, store),
        ladder=ladder.version if (ladder := store.newest(task.name, "ladder")) else "",
        split_ledger=ledger_name(store.state_folder(task.name), task.spec.split.restart),
        unlabelled=_teacher_digest(task, logs, store),
        agreement=_agreement(task),
    )


def _teacher_digest(task: Task, logs: Logs, store: ArtifactStore) -> str:
    """Return the digest of what the teacher answers: files, or its answers in the logs. Empty without a teacher."""
    if task.spec.teacher is None:
        return ""
    if task.spec.teacher.from_logs:
        return logged_digest(task.spec, logs.rows, questions_by_people(task))
    return unlabelled_digest(task, store.seen_files(task.name))


def _agreement(task: Task) -> dict[str, object] | None:
    """Return the agreement of people who answered the same rows; None without a teacher, or without such rows."""
    if task.spec.teacher is None:
        return None
    agreement = reviewers_agreement(read_people(task.folder, task.spec), task.spec)
    return agreement.to_json() if agreement else None
