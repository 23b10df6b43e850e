"""Which share of the calls each champion passes on: as measured on the sealed test, and in service."""

from collections.abc import Iterator

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.calibration import released_probability
from finetune_pipeline.evaluation.predictions import CANDIDATE, SIMPLE
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.wording import counted
from finetune_pipeline.planning.serving_costs import PassedOn
from finetune_pipeline.production.drift import version_of
from finetune_pipeline.production.log_merging import read_logs
from finetune_pipeline.production.share_rows import assignment_of
from finetune_pipeline.report.stored import read_report
from finetune_pipeline.spec.model import Task
from finetune_pipeline.steps.earlier_runs import RECORD, release_of


def measured_shares(task: Task, store: ArtifactStore) -> list[PassedOn]:
    """Return the shares passed on at the task's promised error: of the newest report, and of the version that answered last.

    Raises OutsideError if another release wrote the report.
    """
    if task.spec.automation.max_error is None:
        return []
    return [*_on_the_sealed_test(task, store, task.spec.automation.max_error), *_in_service(task, store)]


def _on_the_sealed_test(task: Task, store: ArtifactStore, max_error: float) -> Iterator[PassedOn]:
    artifact = store.newest(task.name, "evaluation_report")
    if artifact is None:
        return
    report = read_report(store.check(artifact))
    for name, measured in report.probabilities.items():
        promise = measured.automation
        if promise is None or promise.max_error != max_error or (name == CANDIDATE and report.untrained):
            continue
        kind = "tuned" if name == CANDIDATE else "simple" if name.startswith(SIMPLE) else "prompt"
        answered = promise.coverage if promise.unit == "answer" else promise.whole_coverage
        if promise.threshold is not None and answered is None:
            continue  # an older report: a share of fields is none of calls
        share = None if promise.threshold is None or answered is None else 1 - answered
        yield PassedOn(kind, share, f"measured on {counted(promise.n, 'row')} of the sealed test")


def _in_service(task: Task, store: ArtifactStore) -> Iterator[PassedOn]:
    rows = [row for row in read_logs(task, store).rows if row.get("passed_on") is not None]
    version = _champion_of(rows[-1]) if rows else ""
    release = release_of(store, task.name, int(version)) if version.isdigit() else None
    record = read_json(release.path(RECORD)) if release else {}
    released = released_probability(record)
    if released is None or released.promise is None or released.promise.max_error != task.spec.automation.max_error:
        return
    passed_on = [bool(row["passed_on"]) for row in rows if version_of(str(row["model_version"])) == version]
    source = f"measured in service on {counted(len(passed_on), 'call')} of version {version}"
    kind = str(record.get("winner_kind"))
    yield PassedOn(kind if kind in ("simple", "prompt") else "tuned", sum(passed_on) / len(passed_on), source)


def _champion_of(row: LoggedRow) -> str:
    """Return the version that was the champion when a row was answered, also by a candidate that has a share of the traffic."""
    assignment = assignment_of(row)
    return version_of(assignment.champion if assignment else str(row["model_version"]))
