"""The failure atlas: every wrong answer by kind and group, the training rows nearest to it, and what data to collect."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from finetune_pipeline.evaluation.correctness import INVALID, answer_of
from finetune_pipeline.evaluation.failures.clusters import Cluster, clusters
from finetune_pipeline.evaluation.failures.kinds import KINDS, Failure, failure_of
from finetune_pipeline.evaluation.prompts import Neighbours
from finetune_pipeline.evaluation.result import Atlas, AtlasGroup, Case, ChangedRows, NearestRow, WrongAnswers
from finetune_pipeline.evaluation.statistics import wilson_interval
from finetune_pipeline.evaluation.wording import counted, cut, percent, percent_range
from finetune_pipeline.spec.outputs import AnyOutput

TEXT_LIMIT = 1500
ANSWER_LIMIT = 300
EXAMPLES = 2


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
    rows: Sequence[Mapping[str, Any]], labels: Sequence[str], texts: Mapping[str, str]
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
                for row in sorted(members, key=lambda row: str(row["example_id"]))[:EXAMPLES]
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


Row = Mapping[str, Any]
SHOWN, NEAREST = 3, 3
LEAST_RIGHT = 10
"""Rightly answered texts to compare the failed ones with; with fewer no number of rows is asked for."""
ENOUGH_TO_MEASURE = 24
"""Rows of a kind from which on its share of failures is known to about 20 points (Wilson, 95%)."""
_NO_MORE_DATA = {
    "error": "Read the error in the predictions and mend its cause; these rows say nothing about the model.",
    "truncated": "Raise output.max_new_tokens (baseline.max_new_tokens for labels) if the right answers need it; else "
    "train longer, so that the model learns where an answer ends.",
    "empty": "Train longer, and look for empty or very short answers in the training rows.",
    "repetition": "Train longer or with a lower learning rate; look for answers in the training rows that repeat themselves.",
    "refusal": "Look for refusals among the training answers, and remove them unless they are wanted.",
    "wrong_language": "Look for training rows whose answer is in another language than is wanted.",
    "format": "Restrict decoding to the declared form, or train longer: the form is the same in every training row.",
}


def failure_atlas(
    rows: Sequence[Row], output: AnyOutput, texts: Mapping[str, str], neighbours: Neighbours | None = None
) -> Atlas:
    """Group every wrong answer of one model by kind and likeness, kinds and groups by size.

    Args:
        rows: Its predictions.
        output: The kind of answer the spec declares.
        texts: User text by example id, of all rows.
        neighbours: To find the nearest training rows.
    """
    failures = {row["example_id"]: failure for row in rows if (failure := failure_of(row, output)) is not None}
    by_id = {row["example_id"]: row for row in rows}
    together: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i, failure in failures.items():
        together[failure.kind, failure.detail].append(i)
    counts = Counter(failure.kind for failure in failures.values())
    known = {i: texts[i] for i in by_id if i in texts}
    right = [text for i, text in known.items() if i not in failures]
    usual = float(np.median(neighbours.counts(right))) if neighbours and len(right) >= LEAST_RIGHT else None
    groups = [
        _group(kind, detail, cluster, by_id, failures, known, neighbours, usual)
        for (kind, detail), ids in together.items()
        for cluster in clusters(ids, known)
    ]
    groups.sort(key=lambda g: (-counts[g.kind], -g.count, g.kind, g.detail, g.terms, g.examples[0].id))
    kinds = {kind: counts[kind] for kind in sorted(counts, key=lambda k: (-counts[k], list(KINDS).index(k)))}
    return Atlas(n=len(rows), wrong=len(failures), kinds=kinds, groups=groups)


def _group(
    kind: str,
    detail: str,
    cluster: Cluster,
    rows: Mapping[str, Row],
    failures: Mapping[str, Failure],
    texts: Mapping[str, str],
    neighbours: Neighbours | None,
    usual: float | None,
) -> AtlasGroup:
    inside = [texts[i] for i in cluster.ids if i in texts]
    near = float(np.median(neighbours.counts(inside))) if neighbours and inside else None
    nearest = neighbours.nearest(inside, NEAREST) if neighbours and inside else []
    collect, advice = what_to_do(kind, detail, len(cluster.ids), near, usual, [t.answer for t in nearest])
    also = Counter(other for i in cluster.ids for other in failures[i].also)
    ids = sorted(cluster.ids)
    return AtlasGroup(
        kind=kind,
        title=KINDS[kind],
        detail=detail,
        terms=list(cluster.terms),
        count=len(ids),
        share_with_term=cluster.hit / cluster.held if cluster.held else None,
        interval=wilson_interval(cluster.hit, cluster.held) if cluster.held else None,
        ids=ids,
        examples=[
            Case(id=i, text=shown_text(i, texts), gold=cut(rows[i]["gold"], ANSWER_LIMIT), said=said(rows[i]))
            for i in ids[:SHOWN]
        ],
        also=dict(sorted(also.items(), key=lambda item: (-item[1], item[0]))),
        nearest=[
            NearestRow(id=t.id, text=cut(t.text, TEXT_LIMIT), answer=cut(t.answer, ANSWER_LIMIT)) for t in nearest
        ],
        collect=collect,
        advice=advice,
    )


def what_to_do(
    kind: str, detail: str, count: int, near: float | None, usual: float | None, answers: Sequence[str]
) -> tuple[int, str]:
    """(rows to collect, the advice in words).

    More rows are asked for where texts like these are rarer in training than texts like those answered rightly: as
    many as are missing to their median, and at least so many that the group's share of failures can be measured next
    time. Where they are not rarer, more of the same is no cure, and none are asked for. answers: of the nearest
    training rows.
    """
    if kind in _NO_MORE_DATA:
        return 0, _NO_MORE_DATA[kind]
    said_there = detail.rpartition(" → ")[2] if kind == "label_pair" else None
    agree = sum(answer == said_there for answer in answers)
    if said_there and agree * 2 > len(answers):
        return 0, (
            f"Read the nearest training rows first: {agree} of {len(answers)} carry the label given here. Either they are "
            "wrong, or the labels overlap and need a sharper definition."
        )
    if near is None or usual is None:
        return (
            0,
            "Read the examples. Too few answers are right, or the training rows are not at hand, to say whether more would help.",
        )
    if near >= usual:
        return 0, (
            f"Training has about {near:.0f} rows like each of these and {usual:.0f} like those answered rightly, so more "
            "of the same will hardly help: read the examples for what the answer depends on, and check the training answers."
        )
    missing = max(1, math.ceil(usual - near))
    collect = max(missing, ENOUGH_TO_MEASURE)
    why = (
        f"training has about {near:.0f} rows like each of these, and {usual:.0f} like those answered rightly"
        f" ({missing} are missing)"
    )
    if collect > missing:
        why += f"; {ENOUGH_TO_MEASURE} is the fewest from which their share of failures can be measured next time"
    return collect, f"Collect {counted(collect, 'more row')} like these: {why}."


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
