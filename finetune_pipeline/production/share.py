"""Compares the champion with a candidate that answers a share of the users or conversations in its place (`serve --share`).

Chance alone assigns a user or conversation. So if both models are complained about alike, each one's first complaint comes from
the candidate's side with the probability of the share, whatever the traffic, and however it changes. Two e-processes of
:mod:`.promise_watch` bet against that, one for each side (Lindon and Malek 2022, Anytime-valid inference for multinomial count
data). The same holds of answers in a wrong form and of those passed on. The chance that any of the six ever reaches
6/level is at most the level. Complaints that are taken back later are outside this bound.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.wording import counted, percent
from finetune_pipeline.production.promise_watch import evidence
from finetune_pipeline.production.share_rows import Assignment, assignment_of, unit_of
from finetune_pipeline.spec.model import TaskSpec

Side = Literal["champion", "candidate"]


@dataclass(frozen=True)
class Arm:
    """What was assigned to one of the two models.

    Attributes:
        units: Users, and conversations without a user.
        failed: Rows that the champion answered in the candidate's place.
        seconds: Median and 95th percentile of the time for an answer, without waiting; None without a row.
    """

    name: str
    units: int
    rows: int
    failed: int
    seconds: tuple[float, float] | None


@dataclass(frozen=True)
class Compared:
    """On how many units something undesired happened at least once.

    Attributes:
        champion, candidate: Number of units of each.
        champion_evidence, candidate_evidence: That it happens more often with this model, 1 at the beginning.
        more: With whom it surely happens more often.
        since: The time from which on that is sure.
    """

    name: str
    champion: int
    candidate: int
    champion_evidence: float
    candidate_evidence: float
    more: Side | None = None
    since: str = ""


@dataclass(frozen=True)
class ShareReport:
    """The comparison of the latest two models that shared the traffic. limit: evidence from which a difference is sure; percents:
    of the candidate, in the order of their first rows."""

    champion: Arm
    candidate: Arm
    percents: list[float]
    limit: float
    measures: list[Compared]


def compare_share(rows: Sequence[LoggedRow], spec: TaskSpec, pair: tuple[str, str] | None = None) -> ShareReport | None:
    """Compare a champion and a candidate that shared the traffic; None without a row of theirs.

    Args:
        rows: All production rows as merge_lines returns them, sorted by time.
        pair: The versions of the two; None: those of the latest assigned row.
    """
    assigned = [(row, assignment) for row in rows if (assignment := assignment_of(row))]
    if pair is None and assigned:
        pair = assigned[-1][1].pair
    own = [(row, assignment) for row, assignment in assigned if assignment.pair == pair]
    if pair is None or not own:
        return None

    def complained(row: LoggedRow) -> str | None:
        return str(row.get("reported") or row["timestamp"]) if _is_complaint(row, spec) else None

    def wrong_form(row: LoggedRow) -> str | None:
        return None if not form_problems(str(row["output"]), spec.output) else str(row["timestamp"])

    def passed_on(row: LoggedRow) -> str | None:
        return str(row["timestamp"]) if row.get("passed_on") or row.get("fields_passed_on") else None

    events: dict[str, Callable[[LoggedRow], str | None]] = {
        "complained about": complained,
        "in a wrong form": wrong_form,
        "passed on": passed_on,
    }
    limit = 2 * len(events) / (1 - spec.gates.confidence)
    return ShareReport(
        _arm(pair[0], [entry for entry in own if not entry[1].chosen]),
        _arm(pair[1], [entry for entry in own if entry[1].chosen]),
        list(dict.fromkeys(assignment.percent for _, assignment in own)),
        limit,
        [_compared(name, own, when, limit) for name, when in events.items()],
    )


def _is_complaint(row: LoggedRow, spec: TaskSpec) -> bool:
    """Whether a user or reviewer said that an answer is wrong."""
    low, score = spec.logs.low_score, row["score"]
    if row["correction"]:
        return not same_answer(str(row["correction"]), str(row["output"]), spec.output)
    return bool(row["flag"]) or (low is not None and score is not None and score < low)


def _arm(name: str, own: Sequence[tuple[LoggedRow, Assignment]]) -> Arm:
    units = {unit_of(row) for row, _ in own}
    failed = sum(assignment.chosen and row["model_version"] != name for row, assignment in own)
    times = np.quantile([assignment.seconds for _, assignment in own], [0.5, 0.95]).tolist() if own else None
    return Arm(name, len(units), len(own), failed, times and (times[0], times[1]))


def _compared(
    name: str, own: Sequence[tuple[LoggedRow, Assignment]], when: Callable[[LoggedRow], str | None], limit: float
) -> Compared:
    timed = [(time, str(row["id"]), row, assignment) for row, assignment in own if (time := when(row))]
    first: dict[str, tuple[str, Assignment]] = {}
    for time, _, row, assignment in sorted(timed, key=lambda entry: entry[:2]):
        first.setdefault(unit_of(row), (time, assignment))
    chosen = np.array([assignment.chosen for _, assignment in first.values()], bool)
    shares = np.array([assignment.percent / 100 for _, assignment in first.values()])
    values = {"champion": evidence(list(~chosen), list(1 - shares)), "candidate": evidence(list(chosen), list(shares))}
    crossed = sorted((int(np.argmax(v >= limit)), side) for side, v in values.items() if (v >= limit).any())
    champion, candidate = (float(v.max()) if len(v) else 1.0 for v in values.values())
    counts = int((~chosen).sum()), int(chosen.sum())
    if not crossed:
        return Compared(name, *counts, champion, candidate)
    index, side = crossed[0]
    more: Side = "candidate" if side == "candidate" else "champion"
    return Compared(name, *counts, champion, candidate, more, list(first.values())[index][0])


def share_lines(report: ShareReport) -> list[str]:
    """Return the comparison as lines of text."""
    arms = report.champion, report.candidate
    percents = ", then ".join(f"{value:g}%" for value in report.percents)
    lines = [
        f"{report.candidate.name} in place of {report.champion.name} for {percents} of the users or conversations:"
    ]
    for arm in arms:
        times = (
            f"; seconds an answer, median and 95%: {arm.seconds[0]:.3g} and {arm.seconds[1]:.3g}" if arm.seconds else ""
        )
        failed = f"; it failed on {arm.failed:,}, which the champion answered" if arm.failed else ""
        lines.append(
            f"  {arm.name}: {counted(arm.rows, 'row')}, {arm.units:,} different users or conversations{times}{failed}"
        )
    needed = f"{report.limit:,.0f} to 1 needed"
    for measure in report.measures:
        sides = [(arm, count) for arm, count in zip(arms, (measure.champion, measure.candidate), strict=True)]
        said = ", ".join(
            f"{arm.name} {count:,} of {arm.units:,}" + (f" ({percent(count / arm.units)})" if arm.units else "")
            for arm, count in sides
        )
        if measure.more:
            arm = getattr(report, measure.more)
            most = getattr(measure, f"{measure.more}_evidence")
            verdict = f"surely more often {arm.name}, since {measure.since[:10]} (evidence {most:,.0f}; {needed})"
        else:
            most = max(measure.champion_evidence, measure.candidate_evidence)
            verdict = f"no sure difference (evidence {most:,.1f}; {needed})"
        lines.append(f"  {measure.name}, at least once: {said}: {verdict}")
    return lines
