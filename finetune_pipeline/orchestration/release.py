"""Connects the graph with the model registry: inputs of a run from the champion, registration, promotion and alarm."""

import json
from dataclasses import dataclass, replace

from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.engine.files import digest_json, read_json
from finetune_pipeline.engine.step import Champion, RunInputs
from finetune_pipeline.engine.store import Artifact, ArtifactStore
from finetune_pipeline.evaluation.calibration import AutomationPromise, released_probability
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.promise_watch import promise_kept
from finetune_pipeline.production.released import Outcome, Released, ReleaseRequest
from finetune_pipeline.production.rollout import Rollout
from finetune_pipeline.production.status import champion_alarm
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import RECORD, release_of
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline.tracking import registration, registry, rollouts
from finetune_pipeline.tracking.trace_logs import ingest_traces
from finetune_pipeline.tracking.tracking import Tracking

_VERSIONS = ("adapter_version", "merged_version", "dataset_version")
_COMPARISON_TAGS = (*_VERSIONS, "compared_with")
"""Tags of the champion that a comparison with it needs."""
_REQUEST_TAGS = ("verdict", "loosened", "method", "kind", *_VERSIONS, "evaluation_version")
"""Parts of a request for a release that become tags as they are."""


def present_inputs(task: Task, store: ArtifactStore, tracking: Tracking) -> RunInputs:
    """Return the inputs of a run that starts now: ingests new traces and log lines, and finds the champion to compare with.

    A model is what was trained: however it is asked, a run whose training made the champion, or a champion before it, makes
    no new candidate. It is then compared with the same model as at its promotion, so that a rerun has the same inputs.
    """
    aliases = registry.aliases(tracking, task.name)
    serving = aliases.get(registry.CHAMPION)
    ingest_traces(task, store, tracking)
    run_inputs = collect_run_inputs(task, None, store)
    versions = PIPELINE.versions(task, run_inputs, store)
    trained_on = versions["splits"]
    compared_with: Champion | None = None
    if serving is not None:
        tags = registry.tags_of_release(tracking, task.name, serving, *_COMPARISON_TAGS)
        compared_with = {"adapter": tags["adapter_version"], "merged": tags["merged_version"], "model_version": serving}
        if registry.FILES in tags:
            kind, name, files = (tags[tag] for tag in (registry.WINNER_KIND, registry.WINNER_NAME, registry.FILES))
            compared_with |= {"kind": kind, "name": name, "files": files}
        if registry.FORGOTTEN in tags:
            compared_with["forgotten"] = True
        # `finetune forget` may have removed them
        if store.find(task.name, "splits", tags["dataset_version"]) is not None:
            trained_on = tags["dataset_version"]
    known = registry.version_of(tracking, task.name, versions["adapter"])
    known_tags = registry.version_tags(tracking, task.name, known) if known is not None else {}
    if known is None or not registry.was_promoted(known_tags, known, aliases):
        return replace(collect_run_inputs(task, compared_with, store), trained_on=trained_on)
    tags = registry.tags_of_release(tracking, task.name, known, *_COMPARISON_TAGS)
    compared_with = registry.decode_tag(task.name, "compared_with", tags["compared_with"], Champion | None)
    run_inputs = replace(collect_run_inputs(task, compared_with, store), trained_on=trained_on)
    evaluation = PIPELINE.versions(task, run_inputs, store)["evaluation_report"]
    if evaluation == tags.get(registry.EVALUATION):
        return run_inputs
    return replace(run_inputs, promoted={"model_version": known, "serves": known == serving})


def nothing_new(task: Task, store: ArtifactStore, tracking: Tracking) -> str | None:
    """Return a sentence if another run would only find existing results; None if something changed.

    Raises FindingsError like present_inputs.
    """
    run_inputs = present_inputs(task, store, tracking)
    registered = PIPELINE.find("model_version", task, run_inputs, store)
    if registered is None or not is_registered(tracking, registered):
        return None
    version = registered.read(Released).model_version
    aliases = registry.aliases(tracking, task.name)
    serving = aliases.get(registry.CHAMPION)
    if serving == version:
        return f"nothing changed since the data of the champion (version {version})"
    champion = f"the champion is version {serving}" if serving else "there is no champion"
    if registry.was_promoted(registry.version_tags(tracking, task.name, version), version, aliases):
        return f"data and spec are those of version {version}, which was champion before; {champion}"
    return f"nothing changed since the last candidate (version {version}), which was not promoted; {champion}"


def is_registered(tracking: Tracking, model_version: Artifact) -> bool:
    """Whether the registry has the version of this ``model_version`` artifact, and it waits for no rollout that is over. The
    database may have been lost or replaced."""
    record = read_json(model_version.path("model_version.json"))
    name, version, rollout = str(record["name"]), int(record["model_version"]), record.get("rollout")
    try:
        tags = registry.version_tags(tracking, name, version)
    except ValueError:
        return False
    if rollout not in (None, version):
        going = rollouts.present(tracking, name)
        if going is None or going.candidate != rollout:
            return False
    return bool(tags.get(registry.ADAPTER_VERSION) == record["adapter_version"])


def release(tracking: Tracking, request: ReleaseRequest, run_id: str) -> Outcome:
    """Register a model (see steps.release.release_request). If the evaluation ships it, promote it, or begin its rollout.

    Repeating it has the same result. Raises OutsideError if another champion serves than the one it was compared with.
    """
    name, endpoint = request.name, request.endpoint.to_json() if request.endpoint else {}
    version = registration.register(
        tracking,
        request,
        run_id=run_id,
        tags={
            registry.GATES: registry.PASSED if request.gates_passed else "failed",
            **{tag: getattr(request, tag) for tag in _REQUEST_TAGS},
            registry.WINNER_KIND: request.winner_kind or "tuned",
            **(
                {registry.WINNER_NAME: request.winner_name, registry.FILES: digest_json(request.files)}
                if request.files
                else {}
            ),
            **{f"endpoint.{key}": value for key, value in endpoint.items() if value is not None},
            "compared_with": json.dumps(request.compared_with),
            **({registry.FORGOTTEN: registry.FORGOTTEN_REASON} if request.forgotten else {}),
            **({registry.HOLDS_ROWS: "true"} if request.holds_rows else {}),
            **{f"gate.{gate}": status for gate, status in request.gates.items()},
        },
    )
    tags, aliases = registry.version_tags(tracking, name, version), registry.aliases(tracking, name)
    rolled_back = tags.get(registry.ROLLED_BACK)
    known = registry.was_promoted(tags, version, aliases)
    promotable = request.gates_passed and rolled_back is None and not request.forgotten and not known
    compared_with = request.compared_with["model_version"] if request.compared_with else None
    rollout: Rollout | None = None
    if promotable and request.rollout and compared_with is not None:
        rollout = rollouts.begin(tracking, name, version, compared_with)
    elif promotable:
        registry.promote(tracking, name, version, compared_with)
    aliases = registry.aliases(tracking, name)
    champion = aliases.get(registry.CHAMPION)
    return Outcome(
        model_version=version,
        candidate=aliases.get(registry.CANDIDATE),
        champion=champion,
        champion_gates=registry.version_tags(tracking, name, champion).get(registry.GATES) if champion else None,
        previous_champion=aliases.get(registry.PREVIOUS),
        known=known,
        promoted=champion == version,
        rolled_back=rolled_back,
        rollout=rollout.candidate if rollout else None,
    )


@dataclass(frozen=True)
class ChampionQuality:
    """How the champion does in production.

    Attributes:
        serving: Its version; None without a champion.
        result: Of the check: its answers do not fail more often than those of the previous version, and its promise is kept.
        is_worse: Whether they fail more often: a rollback would help.
        promise_broken: Whether the promise is surely broken: a new model is needed.
    """

    serving: int | None
    result: CheckResult
    is_worse: bool = False
    promise_broken: bool = False


def champion_quality(task: Task, store: ArtifactStore, tracking: Tracking) -> ChampionQuality:
    """Return the version that serves, whether its answers fail more often than those of the previous version, and whether it keeps
    its promise (automation.max_error).

    After a rollback nothing is compared, since the previous version is the one taken out of service.
    """
    aliases = registry.aliases(tracking, task.name)
    serving, previous = aliases.get(registry.CHAMPION), aliases.get(registry.PREVIOUS)
    if serving is None:
        return ChampionQuality(None, CheckResult(True, "there is no champion yet"))
    rows = read_logs(task, store).rows
    if previous is not None and registry.ROLLED_BACK in registry.version_tags(tracking, task.name, previous):
        message = f"version {serving} serves again after a rollback from version {previous}"
        compared = CheckResult(True, message)
    else:
        compared = champion_alarm(rows, serving, previous, task.spec.output, task.spec.drift.false_alarms)
    kept = promise_kept(rows, serving, _promise(store, task.name, serving), task.spec)
    if kept is None:
        return ChampionQuality(serving, compared, not compared.passed)
    message = f"{compared.message}; {kept.message}"
    figures = {**compared.figures, **{f"promise_{name}": value for name, value in kept.figures.items()}}
    result = CheckResult(compared.passed and kept.passed, message, figures)
    return ChampionQuality(serving, result, not compared.passed, not kept.passed)


def _promise(store: ArtifactStore, task: str, version: int) -> AutomationPromise | None:
    """Return what the sealed test certified for a version; None if it promises nothing, or its release is not in the store."""
    release = release_of(store, task, version)
    released = released_probability(read_json(release.path(RECORD))) if release else None
    return released.promise if released else None
