"""Which examples a model gets wrong, with their texts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.answers import INVALID, answer_of
from finetune_pipeline.evaluation.result import Case, ChangedRows, WrongAnswers
from finetune_pipeline.evaluation.wording import cut

TEXT_LIMIT = 1500
ANSWER_LIMIT = 300


def changed_examples(
    ids: Sequence[str],
    base: Mapping[str, Mapping[str, Any]],
    candidate: Mapping[str, Mapping[str, Any]],
    texts: Mapping[str, str],
    limit: int,
) -> ChangedRows:
    """Collect regressions or fixes, the first `limit` by id. `base`, `candidate`: prediction rows by example id."""
    shown = [
        Case(
            id=i,
            text=shown_text(i, texts),
            gold=cut(candidate[i]["gold"], ANSWER_LIMIT),
            base=said(base[i]),
            candidate=said(candidate[i]),
        )
        for i in sorted(ids)[:limit]
    ]
    return ChangedRows(total=len(ids), shown=shown)


def wrong_answers(
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], texts: Mapping[str, str], per_group: int = 2
) -> list[WrongAnswers]:
    """Group wrong answers of a label task by right and given label (or `invalid`), the largest group first."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        answer = answer_of(row, labels)
        if answer != row["gold"]:
            groups[row["gold"], INVALID if answer is None else answer].append(row)
    return [
        WrongAnswers(
            gold=gold,
            predicted=predicted,
            count=len(members),
            examples=[
                Case(id=row["example_id"], text=shown_text(row["example_id"], texts), said=said(row))
                for row in sorted(members, key=lambda row: str(row["example_id"]))[:per_group]
            ],
        )
        for (gold, predicted), members in sorted(groups.items(), key=lambda group: (-len(group[1]), group[0]))
    ]


def shown_text(example_id: str, texts: Mapping[str, str]) -> str | None:
    """Return the text of an example, cut; None where it was not kept."""
    return cut(texts[example_id], TEXT_LIMIT) if example_id in texts else None


def said(row: Mapping[str, Any]) -> str:
    """The answer as given, with the status where it is not a finished one."""
    text = cut(row["text"].strip(), ANSWER_LIMIT)
    if row["status"] == "ok":
        return text
    if row["status"] == "error":
        return f"(failed: {cut(row['error'], ANSWER_LIMIT)})"
    return "(nothing)" if row["status"] == "empty" else f"{text} (cut at the token limit)"
