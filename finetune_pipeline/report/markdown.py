"""The evaluation report in Markdown, for a pull request or a metadata field: the same content, shorter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID
from finetune_pipeline.evaluation.gates import GateResult
from finetune_pipeline.evaluation.wording import counted, cut, number
from finetune_pipeline.report import (
    background,
    besides_task,
    evidence,
    metric_tables,
    other_rows,
    preferences,
    sentences,
    tables,
)
from finetune_pipeline.report.next_steps import next_steps
from finetune_pipeline.report.tables import Table

SHOWN, TEXT_LIMIT = 5, 200
LIST_START = r"^(-(?=[-\s]|$)|\+(?=\s|$)|\d+[.)](?=\s|$))"
MARKUP = "\\`*_{}[]<>#|~!&"


def render_markdown(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> str:
    """The report in GitHub-flavoured Markdown. Texts of strangers are escaped: they can start no markup and no HTML."""
    task = evaluation["task"]
    answer, sentence = sentences.verdict_sentences(evaluation, gates)
    comparison = evaluation["comparisons"]["baseline"]
    parts = [
        f"# {plain(task['name'])}: evaluation report",
        plain(task["description"]),
        f"**{plain(answer)}** {plain(sentence)}",
        *map(plain, sentences.caveats(evaluation)),
        "## Gates",
        f"{sentences.gate_counts(gates)}.",
        write_table(tables.gates_table(gates)),
        *_next(evaluation, gates),
        "## Models",
        *[write_table(tables.models_table(evaluation, where)) for where in ("validation", "test")],
        *map(plain, sentences.format_gap_sentences(evaluation)),
        *_advice(evaluation),
        "## Paired comparison",
        write_table(tables.comparisons_table(evaluation)),
        plain(sentences.visible_sentence(comparison)),
        *map(plain, evidence.design_sentences(evaluation)),
        *_labels(evaluation),
        *_detail(evaluation),
        "## Regressions and fixes",
        write_table(evidence.never_break_table(evaluation)),
        *map(plain, evidence.history_sentences(evaluation)),
        write_table(evidence.history_table(evaluation)),
        *_changes(evaluation),
        *_wrong(evaluation),
        *_atlas(evaluation),
        *_titled(
            "## The same rows, perturbed",
            other_rows.robustness_sentences(evaluation.get("robustness")),
            [other_rows.robustness_table(evaluation.get("robustness"))],
        ),
        *_titled(
            "## Recent production rows",
            other_rows.production_sentences(evaluation.get("production")),
            [other_rows.production_table(evaluation.get("production"), evaluation["scores"])],
        ),
        *_beyond(evaluation),
        "## Learning curve",
        plain(sentences.curve_sentence(evaluation["training"])),
        write_table(_curve(evaluation)),
        "## Data card",
        *map(plain, background.card_sentences(evaluation)),
        write_table(background.sources_table(evaluation)),
        write_table(tables.stages_table(evaluation["data"])),
        write_table(tables.splits_table(evaluation["data"], task["labels"])),
        write_table(tables.findings_table(evaluation["data"])),
        "## Training",
        write_table(tables.training_table(evaluation["training"])),
        *_titled("## Supervision", background.supervision_sentences(evaluation), []),
        *_titled(
            "## Cost",
            background.cost_sentences(evaluation),
            [f(evaluation) for f in (background.cost_table, background.tokens_table, background.prices_table)],
        ),
        "## The sealed test",
        plain(sentences.seal_sentence(evaluation)),
        *map(plain, evidence.level_sentences(evaluation)),
        write_table(tables.openings_table(evaluation)),
        "## Lineage and hashes",
        write_table(tables.versions_table(evaluation)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _next(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> list[str]:
    steps = next_steps(evaluation, gates)
    return ["## What to do next", "\n".join(f"{i}. {plain(step)}" for i, step in enumerate(steps, 1))] if steps else []


def _titled(title: str, told: Sequence[str], shown: Sequence[Table | None]) -> list[str]:
    """A section; nothing where there is nothing to tell."""
    parts = [*map(plain, told), *map(write_table, shown)]
    return [title, *parts] if any(parts) else []


def _curve(evaluation: Mapping[str, Any]) -> Table | None:
    """Validation losses by step."""
    history = evaluation["training"].get("history") or []
    rows = [[number(h.get("step")), number(h["eval_loss"])] for h in history if h.get("eval_loss") is not None]
    return Table(["Step", "Validation loss"], rows, "rr") if rows else None


def _advice(evaluation: Mapping[str, Any]) -> list[str]:
    told = evidence.advice_sentences(evaluation)
    return ["## Was it worth training?", "\n".join(f"- {plain(sentence)}" for sentence in told)] if told else []


def advice_markdown(advice: Mapping[str, Any]) -> str:
    """The advice before training by itself: the decision, and a line a reason."""
    decision, *reasons = evidence.advice_sentences({"baseline": {"advice": advice}})
    return "\n".join([f"**{plain(decision)}**", "", *(f"- {plain(reason)}" for reason in reasons)])


def _beyond(evaluation: Mapping[str, Any]) -> list[str]:
    """General ability, and what people and a judging model said."""
    ability, people = evaluation.get("ability"), evaluation.get("people")
    parts = []
    if told := besides_task.ability_sentences(ability):
        parts += ["## General ability", *map(plain, told), write_table(besides_task.ability_table(ability))]
    if told := besides_task.people_sentences(people, evaluation["task"]["name"]):
        parts += ["## Judgement by people", *map(plain, told), write_table(besides_task.comments_table(people))]
    judge = evaluation.get("judge")
    told = [*preferences.judge_sentences(judge), *preferences.similarity_sentences(evaluation.get("similarity"))]
    return [*parts, *_titled("## Judgement by a model", told, [preferences.judge_table(judge)])]


def plain(text: str) -> str:
    """One line of Markdown that reads as `text`: no markup, link or mention starts in it; line ends become blanks."""
    escaped = "".join(f"\\{c}" if c in MARKUP else c for c in " ".join(text.split()))
    escaped = re.sub(LIST_START, lambda start: f"{start[0][:-1]}\\{start[0][-1]}", escaped)
    return escaped.replace("://", ":\u200b//").replace("@", "@\u200b")


def fenced(text: str) -> str:
    """Text as a code block, behind a fence longer than any in it."""
    longest = max((len(m) for m in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"


def write_table(table: Table | None) -> str:
    """A Markdown table; stressed rows in bold. Empty text for none, or one without rows."""
    if table is None or not table.rows:
        return ""
    lines = [
        _line([plain(h) for h in table.headers]),
        _line(["---:" if side == "r" else "---" for side in table.align]),
    ]
    for i, row in enumerate(table.rows):
        cells = [plain(c) for c in row]
        lines.append(_line([f"**{c}**" if c and i in table.strong else c for c in cells]))
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _labels(evaluation: Mapping[str, Any]) -> list[str]:
    if not evaluation["task"]["labels"]:
        return []
    confusion = evaluation["scores"]["candidate"]["confusion"]
    told = zip(confusion["labels"], confusion["counts"], strict=True)
    rows = [[label, *map(number, counts)] for label, counts in told]
    headers = ["right \\ said", *[f"({c})" if c == INVALID else c for c in confusion["columns"]]]
    matrix = Table(headers, rows, "l" + "r" * len(confusion["columns"]))
    return [
        "## Labels",
        write_table(tables.per_class_table(evaluation)),
        "Confusion of the fine-tuned model:",
        write_table(matrix),
    ]


def _detail(evaluation: Mapping[str, Any]) -> list[str]:
    made = [*metric_tables.metric_tables(evaluation), metric_tables.calibration_table(evaluation)]
    written = [write_table(table) for table in made if table]
    return ["## Answers in detail", *written] if written else []


def _atlas(evaluation: Mapping[str, Any]) -> list[str]:
    table = metric_tables.atlas_table(evaluation, 2 * SHOWN)
    return ["## Failure atlas", write_table(table)] if table else []


def _changes(evaluation: Mapping[str, Any]) -> list[str]:
    told = evaluation["regressions"]
    fixes = evaluation["fixes"]["total"]
    lines = [f"{counted(told['total'], 'regression')} and {fixes:,} {'fix' if fixes == 1 else 'fixes'}."]
    shown = told["shown"][:SHOWN]
    if shown:
        lines.append(
            "\n".join(
                f"- {plain(cut(c['text'] or '(the text was not kept)', TEXT_LIMIT))}: right is **{plain(c['gold'])}**, "
                f"now **{plain(cut(c['candidate'], TEXT_LIMIT)) or '(nothing)'}** ({plain(c['id'])})"
                for c in shown
            )
        )
    if len(shown) < told["total"]:
        lines.append(f"{told['total'] - len(shown)} more regressions are in the HTML report or in the evaluation file.")
    return lines


def _wrong(evaluation: Mapping[str, Any]) -> list[str]:
    groups = evaluation["wrong_answers"]
    if not groups:
        return []
    rows = [[g["gold"], g["predicted"], number(g["count"])] for g in groups[: 2 * SHOWN]]
    left = sum(g["count"] for g in groups[2 * SHOWN :])
    more = [f"{counted(left, 'more wrong answer')} in {len(groups) - 2 * SHOWN} smaller groups."] if left else []
    return ["## Wrong answers", write_table(Table(["Right", "Said", "Rows"], rows, "llr")), *more]
