"""Builds the page of a rollout: its stages, how champion and candidate compare, and what has happened."""

from collections.abc import Sequence

from finetune_pipeline.evaluation.wording import percent
from finetune_pipeline.production.rollout import SHADOW, Judged, Rollout, evidence_text, stages_of
from finetune_pipeline.production.shadow import shadow_lines
from finetune_pipeline.production.shadow_rows import is_decidable
from finetune_pipeline.production.share import ShareReport, share_lines
from finetune_pipeline.report.blocks import Block, Items, Page, Section, Table, Text, Verdict, figure, text
from finetune_pipeline.spec.model import TaskSpec

ANSWERS = {"wait": ("warned", "Goes on."), "advance": ("passed", "Next stage."), "stop": ("failed", "Ended.")}
"""Of each action: status and answer of the verdict."""


def rollout_page(
    spec: TaskSpec, rollout: Rollout, judged: Judged, sentence: str, history: Sequence[tuple[str, str]]
) -> Page:
    """Build the page of a rollout.

    Args:
        rollout: The stage that was judged.
        sentence: What was found and done.
        history: Time and sentence of what has happened, oldest first.
    """
    status, answer = ANSWERS[judged.action]
    next_steps = []
    if judged.undecided and rollout.percent == SHADOW:
        decide = "Decide about the different answers"
        if not is_decidable(spec.output):
            decide = "Say which of two different answers is better, without seeing whose is whose"
        next_steps.append(
            f"{decide}: `finetune review {spec.name} --what flagged`. Without decisions it stays at this stage."
        )
    return Page(
        f"Rollout: {spec.name}",
        f"Version {rollout.candidate} is to take over from version {rollout.champion} in stages.",
        Verdict(status, answer, f"{sentence[0].upper()}{sentence[1:]}.", next_steps=next_steps),
        [
            Section.of("stages", "Stages", [_stages(spec, rollout)]),
            Section.of("shadow", "Behind the champion", _shadow(spec, judged)),
            Section.of("share", "Share of the users", _share(judged.share)),
            Section.of("history", "What has happened", [_history(history)]),
        ],
        unfolded=4,
    )


def _stages(spec: TaskSpec, rollout: Rollout) -> Table:
    assert spec.rollout is not None
    stages = stages_of(spec, rollout.percent)
    at = stages.index(rollout.alias)
    asked = f"{spec.rollout.shadow_rows:,} questions, and surely not worse by more than {percent(spec.rollout.margin)}"
    rows = []
    for i, stage in enumerate(stages):
        state = "done" if i < at else f"since {rollout.since[:16].replace('T', ' ')}" if i == at else "later"
        wanted = (
            f"{spec.rollout.share_rows:,} answers, at most {percent(spec.rollout.margin)} failed, and not surely worse"
        )
        rows.append((stage, state, asked if i == 0 else wanted if i < len(stages) - 1 else "serves everybody"))
    return Table([("Stage", text), ("State", text), ("To go on", text)], rows, [at], style="atlas")


def _shadow(spec: TaskSpec, judged: Judged) -> list[Block]:
    if judged.shadow is None:
        return [Text("The candidate has answered no row behind the champion yet.")]
    assert spec.rollout is not None
    note = (
        f"Evidence that the candidate is not worse by more than {percent(spec.rollout.margin)}: "
        f"{evidence_text(judged.evidence)} to 1; {judged.needed:,.0f} to 1 is needed. "
        "Different answers that nobody has decided count against it."
    )
    return [Items([line.strip() for line in shadow_lines(judged.shadow, spec.name)]), Text(note)]


def _share(report: ShareReport | None) -> list[Block]:
    if report is None:
        return []
    arms = (report.champion, report.candidate)
    counts: list[Block] = [Items([line.strip() for line in share_lines(report)[:3]])]
    columns = [("At least once", text), *((arm.name, figure) for arm in arms), ("Surely more often", text)]
    rows = []
    for measure in report.measures:
        sides = [(arm, n) for arm, n in zip(arms, (measure.champion, measure.candidate), strict=True)]
        more = getattr(report, measure.more).name if measure.more else "neither"
        rows.append((measure.name, *(f"{n:,} of {arm.units:,}" for arm, n in sides), more))
    return [*counts, Table(columns, rows)]


def _history(history: Sequence[tuple[str, str]]) -> Table:
    rows = [(time[:16].replace("T", " "), said) for time, said in history]
    return Table([("Time (UTC)", text), ("What", text)], rows, style="")
