"""A request for data, made of the failure atlas: what is missing, how much of it, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.wording import counted, cut, percent

TEXT_SHOWN = 400


def request_rows(atlas: Mapping[str, Any], task: str, version: str = "") -> list[dict[str, Any]]:
    """One row a group of the atlas, those with rows to collect first: {task, version, number, collect, kind, detail,
    like, failed, advice, examples [{id, right, said}], nearest_training [{id, text, answer}]}.

    `like`: the words that set the group apart; empty where none do. The texts of the sealed test are left out: whoever
    collects must not see them.
    """
    groups = sorted(enumerate(atlas["groups"]), key=lambda told: (-told[1]["collect"], -told[1]["count"], told[0]))
    return [
        {
            "task": task,
            "version": version,
            "number": number,
            "collect": group["collect"],
            "kind": group["kind"],
            "detail": group["detail"],
            "like": group["terms"],
            "failed": group["count"],
            "advice": group["advice"],
            "examples": [{"id": e["id"], "right": e["gold"], "said": e["said"]} for e in group["examples"]],
            "nearest_training": group["nearest"],
        }
        for number, (_, group) in enumerate(groups, 1)
    ]


def as_json_lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def group_title(group: Mapping[str, Any]) -> str:
    """`another label: bug → billing; like “refund”, “card”`."""
    told = group["title"] + (f": {group['detail']}" if group["detail"] else "")
    terms = ", ".join(f"\u201c{term}\u201d" for term in group["terms"])
    return f"{told}; like {terms}" if terms else told


def share_sentence(group: Mapping[str, Any]) -> str:
    """How much of what looks like this fails; empty where nothing sets the group apart."""
    if group["share_with_term"] is None:
        return ""
    low, high = group["interval"]
    return (
        f"Of the test rows with \u201c{group['terms'][0]}\u201d {percent(group['share_with_term'])} fail in this way "
        f"({percent(low)} to {percent(high)})."
    )


def as_markdown(atlas: Mapping[str, Any], task: str, plain: Any) -> str:
    """The request as a page for the people who collect; `plain` escapes texts of strangers for Markdown."""
    rows = request_rows(atlas, task)
    wanted = sum(row["collect"] for row in rows)
    lines = [
        f"# Data wanted for {plain(task)}",
        "",
        f"The model is wrong on {counted(atlas['wrong'], 'row')} of {atlas['n']:,} in the sealed test. "
        + (
            f"{counted(wanted, 'new row')} are asked for." if wanted else "More rows are no cure for any group of them."
        ),
        "The failed rows themselves are not shown, since they are the test; the training rows nearest to them are.",
    ]
    for row in rows:
        like = f", like {', '.join(row['like'])}" if row["like"] else ""
        what = f"{row['kind'].replace('_', ' ')}{': ' + row['detail'] if row['detail'] else ''}"
        lines += [
            "",
            f"## {row['number']}. {plain(what + like)}: {row['collect'] or 'no'} rows",
            "",
            plain(row["advice"]),
            "",
        ]
        for near in row["nearest_training"]:
            lines.append(f"- {plain(cut(near['text'], TEXT_SHOWN))} (answer: {plain(near['answer'])})")
        said = "; ".join(f"{plain(e['said'])} for {plain(e['right'])}" for e in row["examples"])
        lines += ["", f"Said in the test: {said}"]
    return "\n".join(lines) + "\n"
