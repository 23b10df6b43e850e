"""The sections on single answers: regressions and fixes, wrong answers by label, and the failure atlas with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from finetune_pipeline.evaluation.data_request import group_title, share_sentence
from finetune_pipeline.evaluation.failure_rules import KINDS
from finetune_pipeline.evaluation.wording import counted, cut, percent
from finetune_pipeline.report import evidence
from finetune_pipeline.report.markup import paragraphs, table

Evaluation = Mapping[str, Any]
LONG_ANSWER = 60
SHOWN_GROUPS = 8


def changes(evaluation: Evaluation) -> str:
    """What must not break, earlier versions, and the rows that changed sides."""
    parts = [
        table(evidence.never_break_table(evaluation)),
        paragraphs(evidence.history_sentences(evaluation)),
        table(evidence.history_table(evaluation), "figures"),
    ]
    kinds = (
        ("regressions", "Regressions", "that the base model has right and the fine-tuned one wrong"),
        ("fixes", "Fixes", "that the base model has wrong and the fine-tuned one right"),
    )
    for key, title, what in kinds:
        told = evaluation[key]
        head = f"{counted(told['total'], 'row')} {what}"
        if len(told["shown"]) < told["total"]:
            head += f"; the first {len(told['shown'])} by id are shown"
        cases = "".join(
            _case(c["id"], c["text"], [("gold", c["gold"]), ("base", c["base"]), ("fine-tuned", c["candidate"])])
            for c in told["shown"]
        )
        parts.append(f"<h3>{title}</h3>{paragraphs([head + '.'])}{cases}")
    return "".join(parts)


def _case(example_id: str, text: str | None, said: Sequence[tuple[str, str]]) -> str:
    shown = "(the text was not kept)" if text is None else text
    between = "<br>" if any(len(what) > LONG_ANSWER for _, what in said) else " \u00b7 "
    told = between.join(f"{escape(who)}: <b>{escape(what)}</b>" for who, what in said)
    return (
        f'<div class="case"><pre>{escape(shown)}</pre><p class="said">{told} '
        f'<span class="id">{escape(example_id)}</span></p></div>'
    )


def wrong(evaluation: Evaluation) -> str:
    """Wrong labels, grouped by right and given label; empty for other tasks."""
    if not evaluation["task"]["labels"]:
        return ""
    groups, n = evaluation["wrong_answers"], evaluation["n"]
    total = sum(group["count"] for group in groups)
    parts = [
        paragraphs(
            [
                f"The fine-tuned model is wrong on {counted(total, 'row')} of {n:,} "
                f"({percent(total / n if n else None)}), grouped by right and given label."
            ]
        )
    ]
    for group in groups[:SHOWN_GROUPS]:
        shown = f", {len(group['examples'])} shown" if len(group["examples"]) < group["count"] else ""
        title = f"{group['gold']} \u2192 {group['predicted']} ({group['count']}{shown})"
        cases = "".join(_case(c["id"], c["text"], [("said", c["said"])]) for c in group["examples"])
        parts.append(f"<h3>{escape(title)}</h3>{cases}")
    if rest := groups[SHOWN_GROUPS:]:
        named = ", ".join(f"{g['gold']} \u2192 {g['predicted']} ({g['count']})" for g in rest)
        parts.append(f"<h3>Smaller groups</h3>{paragraphs([f'{named}.'])}")
    return "".join(parts)


def atlas(evaluation: Evaluation) -> str:
    """Groups of wrong answers with their kind, what to do, the nearest training rows and examples."""
    told = evaluation["atlas"]
    if not told["groups"]:
        return ""
    kinds = ", ".join(f"{KINDS[kind]} ({n})" for kind, n in told["kinds"].items())
    parts = [paragraphs([f"{counted(told['wrong'], 'wrong answer')} of {told['n']:,} by kind: {kinds}."])]
    for group in told["groups"][:SHOWN_GROUPS]:
        cases = "".join(
            _case(c["id"], c["text"], [("right", c["gold"]), ("said", c["said"])]) for c in group["examples"][:2]
        )
        near = "; ".join(f"{cut(n['text'], 160)} ({cut(n['answer'], 80)})" for n in group["nearest"])
        lines = [share_sentence(group), group["advice"], f"Nearest training rows: {near}." if near else ""]
        parts.append(
            f"<h3>{escape(group_title(group))} ({group['count']})</h3>{paragraphs([line for line in lines if line])}{cases}"
        )
    if rest := told["groups"][SHOWN_GROUPS:]:
        named = "; ".join(f"{group_title(g)} ({g['count']})" for g in rest)
        parts.append(f"<h3>Smaller groups</h3>{paragraphs([named + '.'])}")
    return "".join(parts)
