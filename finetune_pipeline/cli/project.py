"""A task with its stores: its current state, and the verdict at the end of a run."""

from collections.abc import Mapping
from functools import cached_property

import dagster as dg

from finetune_pipeline.data.split.canaries import EditRecall
from finetune_pipeline.data.split.leakage import LEAKAGE, Certificate
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.finalists import TUNED_TITLE
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.evaluation.predictions import CANDIDATE
from finetune_pipeline.evaluation.winner import SOUND, not_shipped
from finetune_pipeline.evaluation.wording import level
from finetune_pipeline.orchestration.release import is_registered, present_inputs
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.production.released import Released
from finetune_pipeline.report.kinds import KINDS
from finetune_pipeline.report.stored import Evaluated, Report, read_report
from finetune_pipeline.report.verdict import gate_counts
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking import registry, rollouts
from finetune_pipeline.tracking.tracking import Tracking

NOT_EVALUATED = "{task} has not been evaluated yet: run `finetune run {task}`"


class Project:
    """A task with its stores, the current run inputs, the resulting versions, and the version that serves, which may have been
    trained on rows forgotten since.

    Raises FindingsError if raw files or the base model are missing.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.store, self.tracking = task, Store().artifacts(), Tracking()
        self.run_inputs = present_inputs(task, self.store, self.tracking)
        self.versions = PIPELINE.versions(task, self.run_inputs, self.store)
        self.serving = registry.champion(self.tracking, task.name)
        tags = registry.version_tags(self.tracking, task.name, self.serving) if self.serving else {}
        self.champion_forgotten = registry.FORGOTTEN in tags
        self.champion_kind = tags.get(registry.WINNER_KIND, "tuned")

    @cached_property
    def artifacts(self) -> dict[str, Artifact | None]:
        """The artifact of every step, or None if it is not made yet."""
        return PIPELINE.artifacts(self.task, self.run_inputs, self.store)

    def latest(self, step: str) -> Artifact | None:
        """A step's current artifact, or the newest one if data or spec have changed."""
        return self.artifacts[step] or self.store.newest(self.task.name, step)


def unfinished(project: Project, instance: dg.DagsterInstance) -> list[str]:
    """Assets that are missing, or unknown to Dagster's event log in their current version."""
    missing, artifacts = [], project.artifacts
    for asset in (step.name for step in PIPELINE.steps.values() if not step.asked_for):
        event = instance.get_latest_materialization_event(dg.AssetKey([project.task.name, asset]))
        tags = event.asset_materialization.tags if event and event.asset_materialization else None
        is_recorded = (tags or {}).get("dagster/data_version") == project.versions[asset]
        if artifacts[asset] is None or not is_recorded:
            missing.append(asset)
    registered = artifacts["model_version"]
    if registered is not None and "model_version" not in missing and not is_registered(project.tracking, registered):
        missing.append("model_version")
    return missing


def edited_copies(project: Project) -> dict[str, EditRecall]:
    """Return how many edited copies of test rows the splits would keep out of training, by kind of edit; none without splits."""
    splits = project.artifacts["splits"]
    return Certificate.read(splits.path(LEAKAGE)).edited if splits else {}


def recall_lines(edited: Mapping[str, EditRecall]) -> list[str]:
    if not edited:
        return []
    return [
        "edited copies of rows that stay in their split (95% intervals):",
        *(f"  {kind} {edit.words()}" for kind, edit in edited.items()),
    ]


def check_files(project: Project) -> None:
    """Check the files of every current artifact and of the champion. Raises ChangedArtifact if some are gone or have changed."""
    artifacts = [artifact for artifact in project.artifacts.values() if artifact]
    if project.serving:
        tags = registry.version_tags(project.tracking, project.task.name, project.serving)
        merged = project.store.find(project.task.name, "merged_model", tags.get("merged_version", ""))
        artifacts += [merged] if merged else []
    for artifact in artifacts:
        project.store.check(artifact)


def champion_words(project: Project, report: Artifact | None = None) -> str:
    """Which version serves, and whether it is the model of the current data and spec.

    Args:
        report: The report shown beside it, if it is not the current one.
    """
    report = report or project.artifacts["evaluation_report"]
    registered = project.artifacts["model_version"]
    if registered is None and report is not None:
        registered = project.store.newest(project.task.name, "model_version", evaluation_report=report.version)
    words = serving_words(
        project.task.name,
        project.serving,
        project.champion_kind,
        this_version=registered.read(Released).model_version if registered else None,
        is_refused=report is not None and report.read(Evaluated).decision not in SOUND,
        is_forgotten=project.champion_forgotten,
    )
    going = rollouts.present(project.tracking, project.task.name)
    if going is None:
        return words
    return f"{words}; version {going.candidate} takes over in stages: `finetune rollout {project.task.name}`"


def serving_words(
    task: str, serving: int | None, kind: str, *, this_version: int | None, is_refused: bool, is_forgotten: bool
) -> str:
    """Say which version serves.

    Args:
        this_version: The version of the model that the report beside it is about; None if it is not registered.
        is_refused: The report refuses that model.
        is_forgotten: The version that serves was trained on forgotten rows.
    """
    if serving is None:
        return "none"
    words = f"version {serving}"
    if kind != "tuned":
        words += f" ({KINDS[kind]})"
    if this_version == serving:
        words += ", this model"
        if is_refused:
            words += (
                ". It serves although this report refuses it: an earlier report accepted it, or somebody gave it the alias "
                f"in MLflow. `finetune run {task}` judges it anew, `finetune rollback {task}` returns to the champion before"
            )
    elif this_version is not None:
        words += f"; this model is version {this_version}"
    if is_forgotten:
        words += f"; the champion was trained on forgotten rows: `finetune run {task}` trains one without them"
    return words


def gate_line(gate: GateResult) -> str:
    """A gate as one line: yes, NO, warn (failed without blocking) or `–` (not asked)."""
    answer = {"passed": "yes", "failed": "NO", "warned": "warn", "not_asked": "–"}[gate.status]
    return f"  {answer:<4} {gate.name}: {gate.message}"


_ROWS = {
    "validated_examples": "{kept} kept + {quarantined} in quarantine",
    "clean_examples": "{kept} kept + {exact_duplicates} exact and {near_duplicates} near duplicates + {quarantined} in "
    "contradictions",
    "reviewed_examples": "{kept} kept + {dropped} dropped",
    "splits": "{counts[train]} train + {counts[validation]} validation + {counts[test]} sealed test + {quarantined} in "
    "quarantine",
}
"""Where the rows of each data step go, from its facts."""


def verdict_lines(project: Project) -> list[str]:
    """The verdict: row counts, scores of all models, gates, and paths."""
    lines = ["rows"]
    for step, parts in _ROWS.items():
        if artifact := project.artifacts[step]:
            rows_in, name = artifact.facts["rows_in"], step.removesuffix("_examples")
            lines.append(f"  {name:9}  {rows_in:>6} in = {parts.format_map(artifact.facts)}")
    report = project.artifacts["evaluation_report"]
    if report is None:
        return [*lines, "", f"not evaluated yet: run `finetune run {project.task.name}`"]
    metric = metric_title(project.task.spec.metric)
    lines += ["", f"{metric}, with {level(project.task.spec.gates.confidence)} intervals"]
    evaluation = read_report(project.store.check(report))
    width = max(len(model.title) for model in evaluation.models.values())
    for model in evaluation.models.values():
        score = score_text(project.task.spec.metric, model.value, model.value_interval)
        lines.append(f"  {model.title:<{width}}  {model.set:<10}  n={model.n:<4} {score}")
    return [
        *lines,
        "",
        *gate_lines(evaluation),
        "",
        evaluation.verdict.text,
        *(f"next: {step}" for step in evaluation.next_steps[:1]),
        f"champion in MLflow: {champion_words(project)}",
        "",
        f"report      {report.path('report.html')}",
        f"            finetune report {project.task.name} --markdown   shows it here",
        "Dagster UI  http://127.0.0.1:3000   opened by: finetune ui",
        f"MLflow UI   {project.tracking.page()}   opened by: finetune ui",
    ]


def gate_lines(evaluation: Report) -> list[str]:
    """Each judged model with the gates that it was asked, that of the shipped one first."""
    models: list[tuple[str, list[str]]] = []
    if not evaluation.untrained:
        title = f"gates of {TUNED_TITLE}: {gate_counts(evaluation.gates)}"
        models.append((CANDIDATE, [title, *map(gate_line, evaluation.gates)]))
    for finalist in evaluation.finalists:
        asked = [gate_line(gate) for gate in finalist.gates if gate.status != "not_asked"]
        models.append((finalist.name, [not_shipped(finalist) or f"gates of {finalist.title}", *asked]))
    models.sort(key=lambda model: model[0] != evaluation.winner.name)
    return [line for number, (_, lines) in enumerate(models) for line in ([""] if number else []) + lines]
