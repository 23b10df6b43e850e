"""Sections on single answers: regressions and fixes, wrong answers by label, the failure atlas; and the request for data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from finetune_pipeline.evaluation.failures.atlas import ShownRow, ShownRows
from finetune_pipeline.evaluation.failures.kinds import KINDS
from finetune_pipeline.evaluation.result import Atlas, AtlasGroup, EvaluationResult
from finetune_pipeline.evaluation.wording import counted, cut, number, percent, percent_range, points
from finetune_pipeline.report.blocks import Blocks, Example, Examples, Heading, Items, Page, Section, Table, Text, text

SHOWN_GROUPS, SHOWN_WRONG = 8, 10
TEXT_SHOWN = 400


def changes_section(evaluation: EvaluationResult, rows: ShownRows) -> Blocks:
    """What must not break, earlier versions, and the rows that changed sides."""
    never = evaluation.never_break
    shown = rows.test_rows(never.broken or [])
    broken = [[row.id, row.text or "", row.gold, row.candidate or "(nothing)"] for row in shown]
    missing = [[id_, "(not in the sealed test)", "", ""] for id_ in never.missing or []]
    columns = [(title, text) for title in ("Must not break", "Text", "Right", "Said")]
    yield Table(columns, [*broken, *missing], style="", audience="page")
    yield from history_sentences(evaluation)
    yield history_table(evaluation)
    for title, changed, what in (
        ("Regressions", evaluation.regressions, "that the base model has right and the fine-tuned one wrong"),
        ("Fixes", evaluation.fixes, "that the base model has wrong and the fine-tuned one right"),
    ):
        yield Heading(title)
        yield f"{counted(changed.total, 'row')} {what}."
        if 0 < len(changed.shown) < changed.total:
            yield Text(f"The first {len(changed.shown)} by id are shown.", audience="page")
        yield Examples(
            [
                Example(row.id, row.text, [("gold", row.gold), ("base", row.base), ("fine-tuned", row.candidate)])
                for row in rows.test_rows(changed.shown)
            ]
        )


def history_sentences(evaluation: EvaluationResult) -> list[str]:
    """The test rows over all versions that were judged on them."""
    history = evaluation.history
    if not history.versions:
        return []
    rows = history.rows
    sentences = [
        f"Over all versions judged so far {counted(rows.always_right, 'row')} were always right, "
        f"{number(rows.never_right)} never (hard, or labelled wrongly: look at them first), and "
        f"{number(rows.changing)} sometimes."
    ]
    if history.lost_total:
        left = history.lost_total - len(history.lost)
        sentences.append(
            f"{counted(history.lost_total, 'row')} that every earlier version had right this one gets wrong: "
            f"{', '.join(history.lost)}{f' and {left} more' if left else ''}."
        )
    return sentences


def history_table(evaluation: EvaluationResult) -> Table:
    """This candidate against every earlier one, on the rows both answered."""
    names = ("Rows", "Fixed", "Broken", "Both right", "Both wrong")
    rows = [
        [
            *(v.candidate, v.rows, v.fixed, v.broken, v.both_right, v.both_wrong),
            (v.fixed - v.broken) / v.rows if v.rows else None,
        ]
        for v in evaluation.history.versions
    ]
    return Table([("Against", text), *((name, number) for name in names), ("Gain, points", points)], rows)


def wrong_section(evaluation: EvaluationResult, rows: ShownRows) -> Blocks:
    """Wrong labels, grouped by right and given label; nothing for other tasks."""
    if not evaluation.task.labels:
        return
    groups, n = evaluation.wrong_answers, evaluation.n
    total = sum(group.count for group in groups)
    yield (
        f"The fine-tuned model is wrong on {counted(total, 'row')} of {n:,} ({percent(total / n if n else None)}), grouped by "
        "right and given label."
    )
    yield Table(
        [("Right", text), ("Said", text), ("Rows", number)],
        [[group.gold, group.predicted, group.count] for group in groups[:SHOWN_WRONG]],
    )
    if len(groups) > SHOWN_WRONG:
        left = sum(group.count for group in groups[SHOWN_WRONG:])
        smaller = counted(len(groups) - SHOWN_WRONG, "smaller group")
        yield f"{counted(left, 'more wrong answer')} in {smaller}."
    for group in groups[:SHOWN_GROUPS]:
        shown = f", {len(group.examples)} shown" if len(group.examples) < group.count else ""
        yield Heading(f"{group.gold} \u2192 {group.predicted} ({group.count}{shown})", audience="page")
        yield Examples([Example(r.id, r.text, [("said", r.candidate)]) for r in rows.test_rows(group.examples)])


def atlas_section(evaluation: EvaluationResult, rows: ShownRows) -> Blocks:
    """Groups of wrong answers with their kind, what to do, the nearest training rows and examples."""
    atlas = evaluation.atlas
    if not atlas.groups:
        return
    kinds = ", ".join(f"{KINDS[kind]} ({n})" for kind, n in atlas.kinds.items())
    yield f"{counted(atlas.wrong, 'wrong answer')} of {atlas.n:,} by kind: {kinds}."
    yield Table(
        [("Mistake", text), ("Like", text), ("Rows", number), ("Collect", number), ("What to do", text)],
        [[kind_title(g), ", ".join(g.terms), g.count, g.collect, g.advice] for g in atlas.groups[:SHOWN_WRONG]],
        style="atlas",
        audience="team",
    )
    for group in atlas.groups[:SHOWN_GROUPS]:
        yield Heading(f"{group_title(group)} ({group.count})", audience="page")
        yield Text(share_sentence(group), audience="page") if share_sentence(group) else None
        near = "; ".join(f"{cut(n.text, 160)} ({cut(n.answer, 80)})" for n in rows.nearest_to(group))
        yield Text(f"Nearest training rows: {near}.", audience="page") if near else None
        yield Examples([_example(row) for row in rows.of_group(group)[:2]])


def _example(row: ShownRow) -> Example:
    return Example(row.id, row.text, [("right", row.gold), ("said", row.candidate)])


def in_order(atlas: Atlas) -> list[AtlasGroup]:
    """Groups of the atlas, those with rows to collect first."""
    return sorted(atlas.groups, key=lambda group: (-group.collect, -group.count))


def request_rows(atlas: Atlas, rows: ShownRows, task: str, version: str = "") -> list[dict[str, Any]]:
    """Build one row of the request for every group of the atlas, those with rows to collect first.

    `like` holds the words that set the group apart; it is empty where none do. The texts of the sealed test are left out:
    whoever collects must not see them.
    """
    return [
        {
            "task": task,
            "version": version,
            "number": number,
            "collect": group.collect,
            "kind": group.kind,
            "detail": group.detail,
            "like": group.terms,
            "failed": group.count,
            "advice": group.advice,
            "examples": [{"id": row.id, "right": row.gold, "said": row.candidate} for row in rows.of_group(group)],
            "nearest_training": [asdict(near) for near in rows.nearest_to(group)],
        }
        for number, group in enumerate(in_order(atlas), 1)
    ]


def kind_title(group: AtlasGroup) -> str:
    """`another label: bug → billing`."""
    return group.title + (f": {group.detail}" if group.detail else "")


def group_title(group: AtlasGroup) -> str:
    """`another label: bug → billing; like “refund”, “card”`."""
    terms = ", ".join(f"\u201c{term}\u201d" for term in group.terms)
    return f"{kind_title(group)}; like {terms}" if terms else kind_title(group)


def share_sentence(group: AtlasGroup) -> str:
    """How much of what looks like this fails; empty where nothing sets the group apart."""
    if group.share_with_term is None:
        return ""
    return (
        f"Of the test rows with \u201c{group.terms[0]}\u201d {percent(group.share_with_term)} fail in this way "
        f"({percent_range(group.interval)})."
    )


def request_page(atlas: Atlas, rows: ShownRows, task: str) -> Page:
    """The request for data as a page for the people who collect. No text of the sealed test stands in it."""
    groups = in_order(atlas)
    wanted = sum(group.collect for group in groups)
    asked = f"{counted(wanted, 'new row')} are asked for." if wanted else "More rows are no cure for any group of them."
    lead = (
        f"The model is wrong on {counted(atlas.wrong, 'row')} of {atlas.n:,} in the sealed test. {asked} The failed rows "
        "themselves are not shown, since they are the test; the training rows nearest to them are."
    )
    sections = []
    for i, group in enumerate(groups, 1):
        near = [f"{cut(near.text, TEXT_SHOWN)} (answer: {near.answer})" for near in rows.nearest_to(group)]
        said = "; ".join(f"{row.candidate} for {row.gold}" for row in rows.of_group(group))
        title = f"{i}. {group_title(group)}: {counted(group.collect, 'row') if group.collect else 'no rows'}"
        sections.append(Section.of(f"group-{i}", title, [group.advice, Items(near), f"Said in the test: {said}"]))
    return Page(f"Data wanted for {task}", lead, None, sections)
