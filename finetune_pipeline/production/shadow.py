"""Compares the champion with the model that answers behind it (`finetune serve --shadow`), on the same rows.

Which of them is right is decided by reviewers where the answers differ; in free text, which answer is better, without knowing
whose is whose. Of rows on which only one is right or better, an equally good model has half. Two e-processes of
:mod:`.promise_watch` bet against "at most half", one for each model; the chance that one reaches 2/level is at most half the
level, however often one looks. What users report by themselves is counted, but no evidence: they saw the champion's answers
alone, and report its mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from finetune_pipeline.data.answer_equality import same_answer
from finetune_pipeline.data.answer_rules import form_problems
from finetune_pipeline.data.dedup.text_similarity import text_key
from finetune_pipeline.evaluation.production_rows import LoggedRow
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.evaluation.wording import counted, percent, percent_range
from finetune_pipeline.production.promise_watch import evidence
from finetune_pipeline.production.shadow_rows import (
    ShadowAnswer,
    agree,
    is_decidable,
    newest_pair,
    of_pair,
    preference_of,
)
from finetune_pipeline.spec.model import TaskSpec

Better = Literal["champion", "shadow"]


@dataclass(frozen=True)
class Side:
    """One of the two models.

    Attributes:
        valid: Answers in the declared form.
        failed: Questions without an answer.
        seconds: Median and 95th percentile of the time for an answer, without waiting.
        right: Decided questions that it alone answered right, or in free text better.
        evidence: That it is better, 1 at the beginning.
    """

    name: str
    valid: int
    failed: int
    seconds: tuple[float, float]
    right: int
    evidence: float


@dataclass(frozen=True)
class Reported:
    """What users said of the champion's answers by themselves, which is mostly of mistakes.

    Attributes:
        corrected, liked, disliked: Rows with a correction, a thumb up, or a thumb down.
        champion_right, shadow_right: Corrected rows that each answered as corrected.
        liked_same, disliked_same: Thumbs on an answer that the other model gives, too.
    """

    corrected: int = 0
    champion_right: int = 0
    shadow_right: int = 0
    liked: int = 0
    liked_same: int = 0
    disliked: int = 0
    disliked_same: int = 0


@dataclass(frozen=True)
class ShadowReport:
    """The comparison of the latest two models that answered the same rows. A question asked several times counts once.

    Attributes:
        rows: Rows that both answered, with repeats.
        unanswered: Rows of the champion since then that the other did not answer, without those of a share's stage.
        questions: Different questions among them.
        same: Those with the same answer.
        agreement: Confidence interval of their share.
        decided: Questions with different answers that reviewers have decided.
        limit: Evidence from which a model is surely better.
        preferred: Whether reviewers say which answer is better, since no single one is right in free text.
        better: The model that is surely better.
        since: The time of the decision that showed it.
    """

    champion: Side
    shadow: Side
    rows: int
    unanswered: int
    questions: int
    same: int
    agreement: tuple[float, float]
    decided: int
    limit: float
    preferred: bool
    better: Better | None = None
    since: str = ""
    reported: Reported = field(default_factory=Reported)


class Decided(NamedTuple):
    """What a reviewer decided about a question with different answers: whether each model is right, and when.

    In free text, the preferred answer is right, both of two equally good ones are, and none that is not acceptable."""

    champion_right: bool
    shadow_right: bool
    time: str


def compare_shadow(
    rows: Sequence[LoggedRow], spec: TaskSpec, pair: tuple[str, str] | None = None
) -> ShadowReport | None:
    """Compare two models, the champion and the one behind it; None without a row that both answered.

    Args:
        rows: All production rows as merge_lines returns them, sorted by time.
        pair: The versions of the two; None: those of the latest row with a second answer.
    """
    pair = pair or newest_pair(rows)
    both = of_pair(rows, pair) if pair else []
    if pair is None or not both:
        return None
    first = both[0][0]["timestamp"]
    unanswered = sum(
        row["model_version"] == pair[0] and not (row.get("shadow") or row.get("share")) and row["timestamp"] >= first
        for row in rows
    )
    by_question = {text_key(row["input"]): (row, shadow) for row, shadow in reversed(both)}
    answers = [shadow for _, shadow in by_question.values()]
    same = sum(agree(answer, spec.output) for answer in answers)
    decided = list(decided_questions(both, spec).values())
    alone = [(one.shadow_right, one.time) for one in decided if one.champion_right != one.shadow_right]
    wins = np.array([is_shadow for is_shadow, _ in alone], bool)
    values = {"champion": evidence(list(~wins), 0.5), "shadow": evidence(list(wins), 0.5)}
    limit = 2 / (1 - spec.gates.confidence)
    crossed = sorted((int(np.argmax(v >= limit)), name) for name, v in values.items() if (v >= limit).any())
    better: Better | None = None
    if crossed:
        better = "shadow" if crossed[0][1] == "shadow" else "champion"
    champion_texts, shadow_texts = [a.champion_output for a in answers], [a.output for a in answers]
    top = {name: float(v.max()) if len(v) else 1.0 for name, v in values.items()}
    return ShadowReport(
        _side(
            pair[0], champion_texts, [a.champion_seconds for a in answers], int((~wins).sum()), top["champion"], spec
        ),
        _side(pair[1], shadow_texts, [a.seconds for a in answers], int(wins.sum()), top["shadow"], spec),
        rows=len(both),
        unanswered=unanswered,
        questions=len(answers),
        same=same,
        agreement=wilson_interval(same, len(answers), spec.gates.confidence),
        decided=len(decided),
        limit=limit,
        preferred=not is_decidable(spec.output),
        better=better,
        since=alone[crossed[0][0]][1] if crossed else "",
        reported=_reported(both, spec),
    )


def _side(
    name: str, texts: Sequence[str | None], seconds: Sequence[float], right: int, most: float, spec: TaskSpec
) -> Side:
    given = [text for text in texts if text is not None]
    valid = sum(not form_problems(text, spec.output) for text in given)
    median, late = np.quantile(seconds, [0.5, 0.95]).tolist()
    return Side(name, valid, len(texts) - len(given), (median, late), right, most)


def decided_questions(both: Sequence[tuple[LoggedRow, ShadowAnswer]], spec: TaskSpec) -> dict[str, Decided]:
    """Return what was decided about each question with different answers, by its text_key, in the order of the decisions. The first
    decision of a question counts."""
    made = [
        (decision.time, str(row["id"]), text_key(row["input"]), decision)
        for row, shadow in both
        if not agree(shadow, spec.output) and (decision := _decision(row, shadow, spec))
    ]
    decided: dict[str, Decided] = {}
    for _, _, key, decision in sorted(made):
        decided.setdefault(key, decision)
    return decided


def _decision(row: LoggedRow, shadow: ShadowAnswer, spec: TaskSpec) -> Decided | None:
    if is_decidable(spec.output):
        if not (row["reviewed"] and row["correction"]):
            return None
        return Decided(*_right(row, shadow, spec), str(row.get("decided") or row["timestamp"]))
    if (preferred := preference_of(row)) is None:
        return None
    is_right = {name: preferred.choice in (name, "equal") for name in ("champion", "shadow")}
    return Decided(is_right["champion"], is_right["shadow"], preferred.decided or str(row["timestamp"]))


def _right(row: LoggedRow, shadow: ShadowAnswer, spec: TaskSpec) -> tuple[bool, bool]:
    """Return whether each model answered as a person corrected."""
    right = str(row["correction"])
    is_right = shadow.output is not None and same_answer(right, shadow.output, spec.output)
    return same_answer(right, shadow.champion_output, spec.output), is_right


def _reported(both: Sequence[tuple[LoggedRow, ShadowAnswer]], spec: TaskSpec) -> Reported:
    low, own = spec.logs.low_score, [(row, shadow) for row, shadow in both if not row["reviewed"]]
    corrected = [_right(row, shadow, spec) for row, shadow in own if row["correction"]]
    liked, disliked = [], []
    for row, shadow in own:
        is_low = low is not None and row["score"] is not None and row["score"] < low
        if row["correction"] or row.get("answered_by"):  # a thumb on a fallback's answer says nothing of the champion
            continue
        if row["flag"] or is_low:
            disliked.append(agree(shadow, spec.output))
        elif low is not None and row["score"] is not None:
            liked.append(agree(shadow, spec.output))
    champion, other = (sum(right[side] for right in corrected) for side in (0, 1))
    return Reported(len(corrected), champion, other, len(liked), sum(liked), len(disliked), sum(disliked))


def shadow_lines(report: ShadowReport, task: str) -> list[str]:
    """Return the comparison as lines of text, with what to do next."""
    champion, shadow = report.champion, report.shadow
    sides, n = (champion, shadow), report.questions
    lines = [
        f"{shadow.name} behind {champion.name}: {counted(report.rows, 'row')} answered by both, {counted(n, 'question')}; "
        f"{counted(report.unanswered, 'row')} without a second answer",
        f"  same answer: {percent(report.same / n)} ({percent_range(report.agreement)})",
        "  valid form: "
        + ", ".join(f"{side.name} {percent(side.valid / n)}" for side in sides)
        + (f"; {shadow.name} failed on {counted(shadow.failed, 'question')}" if shadow.failed else ""),
        "  seconds an answer, median and 95%: "
        + ", ".join(f"{side.name} {side.seconds[0]:.3g} and {side.seconds[1]:.3g}" for side in sides),
    ]
    if reported := _reported_line(report):
        lines.append(reported)
    by_whom, alone = ("reviewers, blind", "preferred") if report.preferred else ("reviewers", "alone right")
    none = "no preference" if report.preferred else "neither"
    neither = report.decided - champion.right - shadow.right
    lines.append(
        f"  decided by {by_whom}: {report.decided:,} of {counted(n - report.same, 'question')} with different answers; "
        + ", ".join(f"{side.name} {alone} {side.right:,}" for side in sides)
        + f", {none} {neither:,}"
    )
    needed = f"{report.limit:,.0f} to 1 needed"
    if report.better:
        side = getattr(report, report.better)
        lines.append(
            f"  {side.name} is surely better, since {report.since[:10]} (evidence {side.evidence:,.0f}; {needed})"
        )
    else:
        most = " and ".join(f"{side.evidence:,.1f} for {side.name}" for side in sides)
        lines.append(f"  neither is surely better (evidence {most}; {needed})")
        if report.decided < n - report.same:
            lines.append(f"  next: decide them all, in their order: finetune review {task} --what flagged")
    return lines


def _reported_line(report: ShadowReport) -> str:
    said, champion, shadow = report.reported, report.champion.name, report.shadow.name
    parts = []
    if said.corrected:
        parts.append(
            f"{counted(said.corrected, 'correction')} ({champion} right on {said.champion_right}, {shadow} on "
            f"{said.shadow_right})"
        )
    if said.liked:
        parts.append(f"{counted(said.liked, 'thumb')} up ({shadow} gives the same answer to {said.liked_same})")
    if said.disliked:
        parts.append(f"{counted(said.disliked, 'thumb')} down ({shadow} gives the same answer to {said.disliked_same})")
    return f"  users by themselves, mostly on mistakes of {champion}, no evidence: {'; '.join(parts)}" if parts else ""
