"""Where answers are kept between runs, and which steps may find which of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_pipeline.data.scrub import load_key
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.settings import read_settings
from finetune_pipeline.steps.data import SCRUBBING_KEY
from finetune_pipeline.worker.jobs import kept_answers

FOLDER = ".answers"
OPEN = "everything but tests"


def api_answers(work: StepContext, *, test: bool = False) -> AnswerCache | None:
    """The same cache for answers of an API model, which is asked in this process: its key stays here."""
    return open_answers(work.store, work.task.name if test else None)


def open_answers(store: ArtifactStore, test_of: str | None) -> AnswerCache | None:
    """The cache for answers to the sealed test of this task, or (None) for those to anything else."""
    told = _kept(store, test_of)
    if told is None:
        return None
    return AnswerCache(Path(told["folder"]), load_key(Path(told["key_file"])), told["scope"], told["limit_mib"])


def answers_of(work: StepContext, *, test: bool = False) -> dict[str, Any] | None:
    """The cache for a job of this step. test: the job answers the sealed test, so its answers are for that step alone."""
    return _kept(work.store, work.task.name if test else None)


def _kept(store: ArtifactStore, test_of: str | None) -> dict[str, Any] | None:
    return kept_answers(
        folder=store.root / FOLDER,
        key_file=store.root / SCRUBBING_KEY,
        scope=f"the test of {test_of}" if test_of else OPEN,
        limit_mib=read_settings().answers_mib,
    )
