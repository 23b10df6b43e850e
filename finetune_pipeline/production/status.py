"""Production status: whether a check is due, whether drift requires a run, and whether the champion answers worse."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.engine.store import MANIFEST, Artifact, ArtifactStore
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.production_rows import moment as moment_of
from finetune_pipeline.production.drift import DriftReport, moment, version_of
from finetune_pipeline.production.released import Released
from finetune_pipeline.production.retraining import Decision
from finetune_pipeline.production.signals import more_often
from finetune_pipeline.production.used_rows import production_ids, reports_of, rows_of_data
from finetune_pipeline.spec.model import Task
from finetune_pipeline.spec.outputs import AnyOutput


@dataclass(frozen=True)
class ProductionStatus:
    """The status of production.

    Attributes:
        look: Why a check is due, or None.
        sentence: Description of the status.
        look_key: Changes when there is something new to check.
        drifted: Whether the newest report on the champion's data found drift.
        retrain: Whether a run is due for it.
        report: Version of that report.
        reported_at: Its time, in seconds since 1970.
    """

    look: str | None
    sentence: str
    look_key: str = ""
    drifted: bool = False
    retrain: bool = False
    report: str = ""
    reported_at: float = 0.0


def production_status(
    task: Task, store: ArtifactStore, times: Sequence[float], champion: int | None
) -> ProductionStatus:
    """Compare the newest drift report on the champion's data with the current rows.

    A check is due after a window of new rows, and if production was not yet compared with the data of this champion. A drift
    triggers one run: after a refused candidate, the next run is due when as many new rows have come in as it learned from
    (and at least `retraining.rows_after_drift`).

    Args:
        times: Sorted times of the current rows.
        champion: Its version number.
    """
    window_rows, name, rows = task.spec.drift.window_rows, task.name, len(times)
    versions = store.all_versions(name, "model_version")
    if not versions:
        return ProductionStatus(None, f"there is no candidate yet: start `finetune run {name}`")
    if champion is None:
        return ProductionStatus(None, "there is no champion yet to compare production with")
    latest = _newest_report(store, name, _splits_of(store, versions, champion))
    key = f"{champion}-{rows}-{times[-1] if times else 0:.0f}"
    if latest is None:
        if rows < window_rows:
            return ProductionStatus(None, f"{rows} production rows, a window has {window_rows}")
        return ProductionStatus(
            f"production was not yet compared with the data of version {champion}: checking it", "", key
        )
    report = latest[0].read(DriftReport)
    decision = latest[1].read(Decision)
    new_rows = rows - report.rows
    if newest := report.newest:
        # by time too, since old rows are removed (logs.keep_days); a row may claim a time in the future
        new_rows = max(new_rows, rows - bisect_right(times, min(moment_of(newest), _made_at(latest[0]))))
    look = f"{new_rows} new rows: checking production" if new_rows >= window_rows else None
    drifted = bool(report.drifted)
    retrain = drifted and decision.retrain
    reason = decision.sentence
    if retrain and (refused := _refused_already(task, store, versions, champion, report, decision)):
        reason, retrain = refused, False
    sentence = f"{report.sentence} {reason}"
    return ProductionStatus(look, sentence, key, drifted, retrain, latest[0].version, _made_at(latest[0]))


def _splits_of(store: ArtifactStore, versions: Sequence[Artifact], champion: int) -> str | None:
    """Return the version of the splits a champion was trained on; None if they were deleted (`finetune forget`)."""
    own_versions = [version for version in versions if version.read(Released).model_version == champion]
    for report in reports_of(store, own_versions):
        if store.find(report.task, "splits", report.inputs["splits"]):
            return report.inputs["splits"]
    return None


def _newest_report(store: ArtifactStore, task: str, splits: str | None) -> tuple[Artifact, Artifact] | None:
    """Return the newest drift report on these splits (None: on any), with the decision made from it."""
    decisions = {
        decision.inputs["drift_report"]: decision for decision in store.all_versions(task, "retraining_decision")
    }
    for report in reversed(store.all_versions(task, "drift_report")):
        if report.version in decisions and splits in (None, report.facts.get("trained_on")):
            return report, decisions[report.version]
    return None


def _refused_already(
    task: Task,
    store: ArtifactStore,
    versions: Sequence[Artifact],
    champion: int,
    report: DriftReport,
    decision: Decision,
) -> str | None:
    """Return a sentence if candidates were made since this drift, none was promoted, and too few rows have come in since."""
    since = moment_of(report.since) if report.since else 0.0
    refused = [
        version
        for version in versions
        if not (released := version.read(Released)).promoted
        and not released.known
        and released.champion == champion
        and _made_at(version) > since
    ]
    if not refused:
        return None
    used = {row_id for report in reports_of(store, refused) for row_id in production_ids(store, report)}
    if splits := _splits_of(store, versions, champion):
        used -= rows_of_data(store, task.name, splits)
    missing = len(used) + max(task.spec.retraining.rows_after_drift, len(used)) - decision.usable_rows
    if missing <= 0:
        return None
    number = refused[-1].read(Released).model_version
    return (
        f"Version {number} was made from {len(used)} of the new rows and not promoted: a run starts "
        f"when {missing} more with a known answer have come in."
    )


def _made_at(artifact: Artifact) -> float:
    """Return when an artifact was made, in seconds since 1970."""
    return (artifact.folder / MANIFEST).stat().st_mtime


FIRST_LOOK = 50
"""Rows of the champion at its first test, and fewest of the previous one; further tests follow at every doubling."""


def failed(row: LoggedRow, output: AnyOutput) -> bool:
    """Whether people marked the answer as wrong: a flag, or a correction that is another answer."""
    correction = row.get("correction")
    return bool(row.get("flag")) or (correction is not None and not same_answer(correction, str(row["output"]), output))


def champion_alarm(
    rows: Iterable[LoggedRow],
    champion: int,
    previous: int | None,
    output: AnyOutput,
    false_alarms: float = 0.05,
) -> CheckResult:
    """Check that the champion's answers do not fail significantly more often than those of the previous champion.

    Shares of failed rows are compared by one-sided Fisher's exact tests, at 50, 100, 200, … rows of the champion. The k-th
    test has level false_alarms / (k (k + 1)); these levels sum to false_alarms over all possible tests. The tests depend only
    on the number of rows, so calling this often causes no more false alarms.

    Returns:
        The result, with rows and failures of both versions, and level and p of the deciding test.
    """
    if previous is None or previous == champion:
        return CheckResult(True, f"version {champion} is the first champion: there is no previous one to compare with")
    ordered = sorted((row for row in rows if not row.get("answered_by")), key=lambda row: (moment(row), str(row["id"])))
    now = [failed(row, output) for row in ordered if version_of(str(row["model_version"])) == str(champion)]
    before = [failed(row, output) for row in ordered if version_of(str(row["model_version"])) == str(previous)]
    figures: dict[str, object] = {
        "champion": champion,
        "previous": previous,
        "rows": len(now),
        "rows_before": len(before),
    }
    if min(len(now), len(before)) < FIRST_LOOK:
        return CheckResult(
            True,
            f"version {champion} answered {len(now)} rows and version {previous} {len(before)}: too few to compare "
            f"({FIRST_LOOK} of each are needed)",
            figures,
        )
    look, size = 1, FIRST_LOOK
    while size <= len(now):
        change = more_often(sum(before), len(before), sum(now[:size]), size)
        level = false_alarms / (look * (look + 1))
        share, share_before = sum(now[:size]) / size, sum(before) / len(before)
        figures |= {"look": look, "level": level, "p": change.p, "failed": share, "failed_before": share_before}
        shares = f"{share:.1%} of {size} answers of version {champion} failed, {share_before:.1%} of {len(before)} of {previous}"
        if change.p is not None and change.p < level:
            worse = f"{shares}: it is worse than the previous champion (p {change.p:.2g} < {level:.2g})"
            return CheckResult(False, worse, figures)
        look, size = look + 1, 2 * size
    return CheckResult(True, f"{shares}: not significantly worse", figures)
