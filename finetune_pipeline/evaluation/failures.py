"""Which examples a model gets wrong, told with their texts: what people read after the numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID, answer_of
from finetune_pipeline.evaluation.wording import cut

TEXT_LIMIT = 1500
ANSWER_LIMIT = 300


def changed_examples(
    ids: Sequence[str],
    base: Mapping[str, Mapping[str, Any]],
    candidate: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, str],
    limit: int,
) -> dict[str, Any]:
    """{total, shown: [{id, text, gold, base, candidate}]} for regressions or fixes, at most `limit` shown, by id.

    base and candidate: prediction rows by example id. A text that was not given is null.
    """
    shown = [
        {
            "id": i,
            "text": cut(texts[i], TEXT_LIMIT) if i in texts else None,
            "gold": cut(candidate[i]["gold"], ANSWER_LIMIT),
            "base": said(base[i]),
            "candidate": said(candidate[i]),
        }
        for i in sorted(ids)[:limit]
    ]
    return {"total": len(ids), "shown": shown}


def wrong_answers(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], texts: Mapping[str, str], per_group: int = 2
) -> list[dict[str, Any]]:
    """Wrong answers of a label task grouped by gold and predicted label, largest group first.

    Each: {gold, predicted (a label or `invalid`), count, examples: [{id, text, said}]}, at most `per_group` examples.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        answer = answer_of(row, labels)
        if answer != row["gold"]:
            groups[row["gold"], INVALID if answer is None else answer].append(row)
    ordered = sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    return [
        {
            "gold": gold,
            "predicted": predicted,
            "count": len(members),
            "examples": [
                {
                    "id": row["example_id"],
                    "text": cut(texts[row["example_id"]], TEXT_LIMIT) if row["example_id"] in texts else None,
                    "said": said(row),
                }
                for row in sorted(members, key=lambda row: row["example_id"])[:per_group]
            ],
        }
        for (gold, predicted), members in ordered
    ]


def said(row: Mapping[str, Any]) -> str:
    """The answer as given, with the status where it is not a finished one."""
    text = cut(row["text"].strip(), ANSWER_LIMIT)
    if row["status"] == "ok":
        return text
    if row["status"] == "error":
        return f"(failed: {cut(row['error'], ANSWER_LIMIT)})"
    return "(nothing)" if row["status"] == "empty" else f"{text} (cut at the token limit)"
