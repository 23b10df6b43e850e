"""A request for data, made of the failure atlas: what is missing, how much of it, and what it looks like."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from finetune_pipeline.evaluation.result import Atlas, AtlasGroup
from finetune_pipeline.evaluation.wording import percent, percent_range


def in_order(atlas: Atlas) -> list[AtlasGroup]:
    """Groups of the atlas, those with rows to collect first."""
    return sorted(atlas.groups, key=lambda group: (-group.collect, -group.count))


def request_rows(atlas: Atlas, task: str, version: str = "") -> list[dict[str, Any]]:
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
            "examples": [{"id": case.id, "right": case.gold, "said": case.said} for case in group.examples],
            "nearest_training": [near.model_dump() for near in group.nearest],
        }
        for number, group in enumerate(in_order(atlas), 1)
    ]


def as_json_lines(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


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
