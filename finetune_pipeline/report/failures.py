"""Report sections on individual answers: the rows, the failure atlas, and the request for data."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from finetune_pipeline.evaluation.failures.atlas import ShownRow, ShownRows
from finetune_pipeline.evaluation.failures.kinds import KINDS
from finetune_pipeline.evaluation.result import Atlas, AtlasGroup, EvaluationResult
from finetune_pipeline.evaluation.wording import counted, cut, number, percent, percent_range, points
from finetune_pipeline.report.blocks import Blocks, Items, Page, Section, Table, Text, text
from finetune_pipeline.report.differences import mark_differences

SHOWN_GROUPS = 10
TEXT_SHOWN = 400
SHOWN_ROWS = 20
"""Most rows that were passed on on the page of the request; the JSON Lines have all."""


def rows_section(evaluation: EvaluationResult, rows: ShownRows) -> Blocks:
    """Show the answers to all test rows in one table, and the rows' results under earlier versions."""
    never, wrong = evaluation.never_break, evaluation.atlas.wrong
    yield (
        f"The fine-tuned model is wrong on {counted(wrong, 'row')} of {evaluation.n:,} "
        f"({percent(wrong / evaluation.n if evaluation.n else None)}). The base model has "
        f"{number(evaluation.regressions.total)} of these right, and is wrong on {counted(evaluation.fixes.total, 'other row')}."
    )
    if never.broken:
        yield Text(f"Must not break, and wrong: {', '.join(never.broken)}.", audience="team")
    if never.missing:
        yield Text(f"Must not break, and not in the sealed test: {', '.join(never.missing)}.", audience="team")
    yield from history_sentences(evaluation)
    yield history_table(evaluation)
    table = _rows_table(evaluation, rows)
    yield table
    if table and (unlisted := evaluation.n - len(rows.tested)) > 0:
        left_out = wrong - sum(not row.right for row in rows.tested.values())
        which = f"{left_out:,} of them wrong" if left_out > 0 else "all answered right"
        where = "All answers are in predictions.parquet of the step test_predictions."
        yield Text(f"Not shown: {counted(unlisted, 'row')}, {which}. {where}", note=True, audience="page")


def _rows_table(evaluation: EvaluationResult, rows: ShownRows) -> Table:
    # for labels, the correct and given ones say more than the kind of mistake
    groups = [] if evaluation.task.labels else evaluation.atlas.groups
    mistakes = {i: kind_title(group) for group in groups for i in group.ids}
    broken = set(evaluation.never_break.broken or ())
    titles = ["Outcome", "Text", "Right", "Fine-tuned", "First stage, if different", "Base", "Mistake", "Row"]
    lines = []
    for row in rows.tested.values():
        row_text = "(the text was not kept)" if row.text is None else row.text
        reference, candidate, base = (row.gold, row.candidate, row.base) if evaluation.task.labels else _marked(row)
        mistake = mistakes.get(row.id, "")
        lines.append([_outcome(row, broken), row_text, reference, candidate, row.first_stage, base, mistake, row.id])
    lines.sort(key=lambda line: _OUTCOMES.index(line[0]))
    filters = (0, 2, 3) if evaluation.task.labels else (0, 6)
    table = Table([(title, text) for title in titles], lines, style="rows", audience="page", filters=filters)
    return table.without_empty_columns()


def _marked(row: ShownRow) -> tuple[str, str, str]:
    """Return reference and answers of both models, with what differs in wrong ones."""
    reference, candidate, base = row.gold, row.candidate, row.base
    if not row.base_right:
        base, reference = mark_differences(base, row.gold)
    if not row.right:
        candidate, reference = mark_differences(candidate, row.gold)
    return reference, candidate, base


_OUTCOMES = ("must not break", "regression", "wrong", "fixed", "right")


def _outcome(row: ShownRow, broken: Collection[str]) -> str:
    if row.id in broken:
        return "must not break"
    if row.right:
        return "right" if row.base_right else "fixed"
    return "regression" if row.base_right else "wrong"


def history_sentences(evaluation: EvaluationResult) -> list[str]:
    history = evaluation.history
    if not history.versions:
        return []
    rows = history.rows
    sentences = [
        f"Over all versions evaluated so far {counted(rows.always_right, 'row')} were always right, "
        f"{number(rows.never_right)} never (hard, or labelled wrongly: check them first), and "
        f"{number(rows.changing)} sometimes."
    ]
    if history.lost_total:
        unlisted = history.lost_total - len(history.lost)
        sentences.append(
            f"{counted(history.lost_total, 'row')} that every earlier version had right are wrong now: "
            f"{', '.join(history.lost)}{f' and {unlisted} more' if unlisted else ''}."
        )
    return sentences


def history_table(evaluation: EvaluationResult) -> Table:
    names = ("Rows", "Fixed", "Broken", "Both right", "Both wrong")
    rows: list[list[Any]] = []
    for v in evaluation.history.versions:
        gain = (v.fixed - v.broken) / v.rows if v.rows else None
        rows.append([v.candidate, v.rows, v.fixed, v.broken, v.both_right, v.both_wrong, gain])
    return Table([("Against", text), *((name, number) for name in names), ("Gain, points", points)], rows)


def atlas_section(evaluation: EvaluationResult, rows: ShownRows) -> Blocks:
    atlas = evaluation.atlas
    if not atlas.groups:
        return
    kinds = ", ".join(f"{KINDS[kind]} ({n})" for kind, n in atlas.kinds.items())
    yield f"{counted(atlas.wrong, 'wrong answer')} of {atlas.n:,} by kind: {kinds}."
    largest, smaller = atlas.groups[:SHOWN_GROUPS], atlas.groups[SHOWN_GROUPS:]
    yield Table(
        [("Mistake", text), ("Like", text), ("Rows", number), ("Collect", number), ("What to do", text)],
        [[kind_title(g), ", ".join(g.terms), g.count, g.collect, f"{g.advice} {share_sentence(g)}"] for g in largest],
        style="atlas",
        audience="team",
    ).without_empty_columns()
    if smaller:
        yield f"{counted(len(smaller), 'smaller group')} with {counted(sum(g.count for g in smaller), 'row')}."
    near = [
        [kind_title(g), cut(n.text, TEXT_SHOWN), cut(n.answer, TEXT_SHOWN)] for g in largest for n in rows.nearest_to(g)
    ]
    titles = ("Mistake", "Nearest training rows", "Answer")
    yield Table([(t, text) for t in titles], near, style="rows", audience="page", filters=(0,))


def by_priority(atlas: Atlas) -> list[AtlasGroup]:
    """Return the groups of the atlas, those with rows to collect first."""
    return sorted(atlas.groups, key=lambda group: (-group.collect, -group.count))


PASSED_ON = "passed on in production"
"""Kind of the request's first row: answers that wait for a person."""
_DECIDE = "The model is not sure of these answers: decide about them first, with `finetune review`."


def request_rows(
    atlas: Atlas, rows: ShownRows, task: str, version: str = "", passed_on: Sequence[Mapping[str, object]] = ()
) -> list[dict[str, object]]:
    """Build one row of the request for every group of the atlas, those with rows to collect first; before them one with the
    production rows that were passed on and wait for a person.

    `like` has the group's distinctive words. The texts of the sealed test are left out: people who collect rows must not see them.
    """
    keys = ("id", "input", "output", "probability")
    waiting = {
        "task": task,
        "version": version,
        "number": 0,
        "collect": len(passed_on),
        "kind": PASSED_ON,
        "advice": _DECIDE,
        "rows": [{key: row.get(key) for key in keys} for row in passed_on],
    }
    return [
        *([waiting] if passed_on else []),
        *_group_rows(atlas, rows, task, version),
    ]


def _group_rows(atlas: Atlas, rows: ShownRows, task: str, version: str) -> list[dict[str, object]]:
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
        for number, group in enumerate(by_priority(atlas), 1)
    ]


def kind_title(group: AtlasGroup) -> str:
    """Return a group's kind, such as `another label: bug → billing`."""
    return group.title + (f": {group.detail}" if group.detail else "")


def group_title(group: AtlasGroup) -> str:
    """Return a group's title, such as `another label: bug → billing; like “refund”, “card”`."""
    terms = ", ".join(f"\u201c{term}\u201d" for term in group.terms)
    return f"{kind_title(group)}; like {terms}" if terms else kind_title(group)


def share_sentence(group: AtlasGroup) -> str:
    """Return a sentence on how often similar rows fail; empty if the group has no distinctive words."""
    if group.share_with_term is None:
        return ""
    return (
        f"Of the test rows with \u201c{group.terms[0]}\u201d {percent(group.share_with_term)} fail in this way "
        f"({percent_range(group.interval)})."
    )


def request_page(atlas: Atlas, rows: ShownRows, task: str, passed_on: Sequence[Mapping[str, Any]] = ()) -> Page:
    """Build the page of the request for data, for people who collect rows. It contains no text of the sealed test."""
    groups = by_priority(atlas)
    n = sum(group.collect for group in groups)
    request = f"{counted(n, 'new row')} requested." if n else "More rows would not help any of these groups."
    lead = (
        f"The model is wrong on {counted(atlas.wrong, 'row')} of {atlas.n:,} in the sealed test. {request} The failed rows "
        "are not shown, since they belong to the test; the nearest training rows are shown instead."
    )
    sections = []
    if passed_on:
        shown = [f"{cut(row['input'], TEXT_SHOWN)} (answer: {cut(row['output'], TEXT_SHOWN)})" for row in passed_on]
        title = f"Passed on in production: {counted(len(passed_on), 'row')}"
        sections.append(Section.of("passed-on", title, [_DECIDE, Items(shown[:SHOWN_ROWS])]))
    for i, group in enumerate(groups, 1):
        near = [f"{cut(near.text, TEXT_SHOWN)} (answer: {near.answer})" for near in rows.nearest_to(group)]
        answers = "; ".join(f"{row.candidate} for {row.gold}" for row in rows.of_group(group))
        title = f"{i}. {group_title(group)}: {counted(group.collect, 'row') if group.collect else 'no rows'}"
        sections.append(Section.of(f"group-{i}", title, [group.advice, Items(near), f"Answers in the test: {answers}"]))
    return Page(f"Data wanted for {task}", lead, None, sections)
