"""Determines production status: whether a check is due, whether drift requires a run, and how the champion performs."""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.engine.store import MANIFEST, Artifact, ArtifactStore
from finetune_pipeline.production.drift import moment, version_of
from finetune_pipeline.production.signals import more_often
from finetune_pipeline.production.used_rows import production_ids, reports_of, rows_of_data
from finetune_pipeline.spec.model import Task


@dataclass(frozen=True)
class ProductionStatus:
    """The status of production.

    Attributes:
        look: Why a check is due, or None.
        sentence: Description of the status.
        look_key: Changes when there is something new to check.
        drifted, retrain: What the newest report on the current champion found, and whether a run is due for it.
        report, reported_at: That report's version, and its time (seconds since 1970).
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
    """Compare the newest drift report on the champion's data with the current rows (their sorted times).

    A check is due after a window of new rows, and if production was not yet compared with the data of this champion (its
    version number). A drift triggers one run: after a refused candidate, the next run is due when as many new rows have come
    in as it learned from (and at least `retraining.rows_after_drift`).
    """
    size, name, rows = task.spec.drift.window_rows, task.name, len(times)
    versions = store.all_versions(name, "model_version")
    if not versions:
        return ProductionStatus(None, f"there is no candidate yet: start `finetune run {name}`")
    if champion is None:
        return ProductionStatus(None, "there is no champion yet to compare production with")
    data = _splits_of(store, versions, champion)
    latest = _newest(store, name, data)
    key = f"{champion}-{rows}-{times[-1] if times else 0:.0f}"
    if latest is None:
        if rows < size:
            return ProductionStatus(None, f"{rows} production rows, a window has {size}")
        return ProductionStatus(
            f"production was not yet compared with the data of version {champion}: checking it", "", key
        )
    report, decision = latest
    # an equal number of rows may be different rows, since old ones are removed (logs.keep_days)
    newest_time = moment({"timestamp": newest}) if (newest := report.facts.get("newest")) else math.inf
    new = max(rows - int(report.facts["rows"]), rows - bisect_right(times, newest_time))
    look = f"{new} new rows: checking production" if new >= size else None
    sentence, retrain = f"{report.facts['sentence']} {decision.facts['sentence']}", bool(decision.facts["retrain"])
    drifted = bool(report.facts["drifted"])
    if drifted and retrain and (refused := _refused_already(task, store, versions, champion, report, decision)):
        sentence, retrain = f"{report.facts['sentence']} {refused}", False
    return ProductionStatus(look, sentence, key, drifted, drifted and retrain, report.version, _mtime(report))


def _splits_of(store: ArtifactStore, versions: Sequence[Artifact], champion: int) -> str | None:
    """Return the version of the splits a champion was trained on; None if they were deleted (`finetune forget`)."""
    for report in reports_of(store, [v for v in versions if v.facts["model_version"] == champion]):
        if store.find(report.task, "splits", report.inputs["splits"]):
            return report.inputs["splits"]
    return None


def _newest(store: ArtifactStore, task: str, splits: str | None) -> tuple[Artifact, Artifact] | None:
    """Return the newest drift report on this data (None: on any), with the decision made from it."""
    decisions = {d.inputs["drift_report"]: d for d in store.all_versions(task, "retraining_decision")}
    for report in reversed(store.all_versions(task, "drift_report")):
        if report.version in decisions and splits in (None, report.facts.get("trained_on")):
            return report, decisions[report.version]
    return None


def _refused_already(
    task: Task, store: ArtifactStore, versions: Sequence[Artifact], champion: int, report: Artifact, decision: Artifact
) -> str | None:
    """Return a sentence if candidates were made from this drift's rows, none was promoted, and few rows came in since."""
    since = moment({"timestamp": report.facts["since"]})
    refused = [v for v in versions if not v.facts["promoted"] and v.facts["champion"] == champion and _mtime(v) > since]
    if not refused:
        return None
    used = {i for report in reports_of(store, refused) for i in production_ids(store, report)}
    if splits := _splits_of(store, versions, champion):
        used -= rows_of_data(store, task.name, splits)
    missing = len(used) + max(task.spec.retraining.rows_after_drift, len(used)) - int(decision.facts["usable_rows"])
    if missing <= 0:
        return None
    return (
        f"Version {refused[-1].facts['model_version']} was made from {len(used)} of the new rows and not promoted: a run starts "
        f"when {missing} more with a known answer have come in."
    )


def _mtime(artifact: Artifact) -> float:
    return (artifact.folder / MANIFEST).stat().st_mtime


FIRST_LOOK = 50
"""Rows of the current champion at its first test, and fewest of the previous one; further tests follow at every doubling."""


def failed(row: Mapping[str, Any]) -> bool:
    """Whether people marked the answer as wrong: a flag, or a correction that differs from it."""
    correction = row.get("correction")
    return bool(row.get("flag")) or (correction is not None and correction.strip() != str(row["output"]).strip())


def champion_alarm(
    rows: Iterable[Mapping[str, Any]], champion: int, previous: int | None, false_alarms: float = 0.05
) -> CheckResult:
    """Compare the shares of failed rows of two versions (one-sided Fisher's exact test), as the champion's rows grow.

    Returns whether the champion is not significantly worse, with rows and failures of both versions, level and p of the
    deciding test.

    Tests run at 50, 100, 200, … rows of the current champion, against the rows of the previous one. The k-th has level
    false_alarms / (k (k + 1)), which sums to false_alarms over all possible tests. The tests depend only on the number of
    rows, so calling this often costs nothing.
    """
    if previous is None or previous == champion:
        return CheckResult(True, f"version {champion} is the first champion: there is no previous one to compare with")
    ordered = sorted(rows, key=lambda r: (moment(r), str(r["id"])))
    now = [failed(r) for r in ordered if version_of(str(r["model_version"])) == str(champion)]
    before = [failed(r) for r in ordered if version_of(str(r["model_version"])) == str(previous)]
    figures: dict[str, Any] = {"champion": champion, "previous": previous, "rows": len(now), "rows_before": len(before)}
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
