"""Finds the files of the champion, or of another registered version, to serve it as it was evaluated."""

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.step import SHARED
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.calibration import released_probability
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import served
from finetune_pipeline.serving.loaded_model import ServedModel
from finetune_pipeline.serving.loading import AnyServed
from finetune_pipeline.serving.prompted_model import ServedPrompt
from finetune_pipeline.serving.simple_model import ServedSimple
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import RECORD, SHIPPED, release_of
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.tracking import Tracking


def present_champion(task: Task, store: ArtifactStore, tracking: Tracking) -> AnyServed:
    """Return the model with the alias `champion`.

    Raises OutsideError if there is none, and the errors of :func:`served_version`.
    """
    version = registry.champion(tracking, task.name)
    if version is None:
        raise OutsideError(
            f"{task.name} has no champion yet: `finetune run {task.name}` makes one when every gate passes"
        )
    return served_version(task, store, tracking, version)


def second_version(task: Task, store: ArtifactStore, tracking: Tracking, wanted: str) -> AnyServed:
    """Return a registered version that is to answer behind or beside the champion. wanted: its number, or `candidate`, the newest.

    Raises OutsideError if there is no such version, if it is the champion or was trained on forgotten rows, and the errors of
    :func:`served_version`.
    """
    aliases = registry.aliases(tracking, task.name)
    version = aliases.get(wanted, int(wanted) if wanted.isascii() and wanted.isdigit() else None)
    try:
        tags = registry.version_tags(tracking, task.name, version or 0)
    except ValueError:
        raise OutsideError(
            f"{task.name} has no version {wanted}: name a registered version by its number, or `{registry.CANDIDATE}`, "
            "the newest; MLflow lists them"
        ) from None
    if version == aliases.get(registry.CHAMPION):
        raise OutsideError(f"version {version} of {task.name} is the champion itself: name another version")
    if registry.FORGOTTEN in tags:
        raise OutsideError(f"version {version} of {task.name} was {registry.FORGOTTEN_REASON}: name another version")
    return served_version(task, store, tracking, version or 0)


def served_version(task: Task, store: ArtifactStore, tracking: Tracking, version: int) -> AnyServed:
    """Return a registered version.

    Raises OutsideError if its trainer hosts it, or if its files are missing from the artifact store, and FindingsError like
    :func:`.registry.tags_of_release`.
    """
    tags = registry.tags_of_release(tracking, task.name, version, "merged_version")
    kind, name = tags.get(registry.WINNER_KIND, "tuned"), f"{task.name}:{version}"
    release = release_of(store, task.name, version)
    merged = store.find(task.name, "merged_model", tags["merged_version"])
    base = store.find(SHARED, "base_model", merged.inputs["base_model"]) if merged else None
    lost = None if release else "release record"
    if kind != "simple":
        lost = "model" if merged is None else "base model" if base is None else lost
    if lost:
        raise OutsideError(
            f"the {lost} of {task.name} version {version} is missing from {store.root}; restore it, or run "
            f"`finetune run {task.name}`"
        )
    assert release is not None
    record = read_json(store.check(release).path(RECORD))
    prompt, limit, precision = (
        record["system_prompt"],
        int(record["max_new_tokens"]),
        record.get("precision", "float32"),
    )
    schema, probability = record.get("json_schema"), released_probability(record)
    if kind == "simple":
        return ServedSimple(name, release.path(SHIPPED), prompt, schema, probability)
    assert merged is not None and base is not None
    if kind == "prompt":
        folder, shipped = store.check(base).folder, release.path(SHIPPED)
        return ServedPrompt(name, folder, shipped, prompt, limit, precision, schema, probability)
    if hosted := read_hosted(store.check(merged).folder):
        raise OutsideError(f"version {version} of {task.name}: {hosted.cannot('served from here')}")
    model = served(merged, store.check(base))
    constrained = bool(record.get("constrained_decoding"))
    return ServedModel(name, model.model, model.adapter, prompt, limit, precision, schema, constrained, probability)
