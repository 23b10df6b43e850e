"""Finds results of earlier runs that steps reuse: cached answers, and the champion's artifacts."""

from pathlib import Path

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import SHARED, StepContext
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.answer_cache import FOLDER, cache_file
from finetune_pipeline.jobs import KeptAnswers
from finetune_pipeline.production.released import Released
from finetune_pipeline.settings import read_settings

SHIPPED = "shipped"
"""Folder in a ``model_version`` artifact with the files of a simple model or a prompt, if one of these is what was registered."""

RECORD = "model_version.json"
"""File in a ``model_version`` artifact that says what was released, and how it is asked."""


def answers_of(store: ArtifactStore, test_of: str | None = None) -> KeptAnswers | None:
    """Return a job's cache, if there is one: of answers to the sealed test of this task, or (None) of all other answers."""
    size = read_settings().answers_mib
    return KeptAnswers(file=cache_file(store.root / FOLDER, test_of), limit_mib=size) if size else None


def champion_of(context: StepContext) -> tuple[Artifact, Artifact]:
    """Return the champion's model and its base, which may differ from the candidate's.

    Raises RuntimeError if one of them is missing.
    """
    assert context.run_inputs.champion is not None
    version = context.run_inputs.champion["merged"]
    champion = context.store.find(context.task.name, "merged_model", version)
    base = context.store.find(SHARED, "base_model", champion.inputs["base_model"]) if champion else None
    if champion is None or base is None:
        gone = "merged model" if champion is None else "base model"
        raise RuntimeError(
            f"the {gone} of the current champion (merged_model {version}) is missing from the artifact store, so the "
            "candidate cannot be compared with it; restore it, or remove the alias `champion` in MLflow"
        )
    return context.store.check(champion), context.store.check(base)


def champion_files(context: StepContext) -> Path:
    """Return the folder of a champion that is a simple model or a prompt. Raises RuntimeError if it is missing."""
    return champion_release(context).path(SHIPPED)


def champion_release(context: StepContext) -> Artifact:
    """Return the release of the champion. Raises RuntimeError if it is missing."""
    assert context.run_inputs.champion is not None
    version = context.run_inputs.champion["model_version"]
    release = release_of(context.store, context.task.name, version)
    if release is None:
        raise RuntimeError(
            f"the files of the current champion (version {version}) are missing from the artifact store, so the candidate "
            "cannot be compared with it; restore them, or remove the alias `champion` in MLflow"
        )
    return context.store.check(release)


def champion_schema(context: StepContext) -> dict[str, object] | None:
    """Return the schema that a tuned champion's answers are decoded under in service; None if they are free."""
    assert context.run_inputs.champion is not None
    version = context.run_inputs.champion["model_version"]
    release = release_of(context.store, context.task.name, version)
    return decoded_schema_of(context.store.check(release)) if release else None


def decoded_schema_of(release: Artifact) -> dict[str, object] | None:
    """Return the schema that a released model's answers are decoded under; None if they are free."""
    record = read_json(release.path(RECORD))
    schema: dict[str, object] | None = record.get("json_schema") if record.get("constrained_decoding") else None
    return schema


def release_of(store: ArtifactStore, task: str, version: int) -> Artifact | None:
    """Return the release of a version that its gates let through; later evaluations that do not are left out, since the model
    keeps being served as it was accepted."""
    releases = [
        artifact
        for artifact in store.all_versions(task, "model_version")
        if (released := artifact.read(Released)).model_version == version and released.gates_passed
    ]
    return releases[-1] if releases else None
