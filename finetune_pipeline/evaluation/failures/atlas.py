"""The failure atlas: wrong answers grouped by kind, with the nearest training rows and the rows to show.

Wrong answers of one kind are grouped by words that are far more frequent in them than in the rest of the test.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import scipy
from pydantic import Field

from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.failures.kinds import KINDS, failure_of
from finetune_pipeline.evaluation.predictions import by_model
from finetune_pipeline.evaluation.prompts import Neighbours, TrainingRow
from finetune_pipeline.evaluation.refined_choice import SUPERVISED
from finetune_pipeline.evaluation.result import Atlas, AtlasGroup, EvaluationResult
from finetune_pipeline.evaluation.result_parts import Part
from finetune_pipeline.evaluation.rivals import base_at_its_best
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline.evaluation.wording import counted, cut
from finetune_pipeline.spec.outputs import AnyOutput

NEAREST = 3
MIN_RIGHT = 10
"""Correctly answered texts needed for comparison; with fewer, no number of rows is requested."""
MIN_GROUP = 3
"""Minimum texts of a group, and of a group that hold one of its terms."""
SIGNIFICANCE = 0.05
"""A word distinguishes a group if its one-sided Fisher p, times the number of words tried (Bonferroni), is below this."""
_WORD = re.compile(r"[^\W\d_][\w'’-]+")
_NAMING_TERMS = 3
_RELATED_TERMS, _MIN_SHARED_TERMS = 12, 2
"""A text belongs to a group if it holds at least two of the group's twelve most distinctive terms."""
TEXT_LIMIT, ANSWER_LIMIT = 1500, 1500
"""Shown characters of a text and of an answer."""
SHOWN_OF_GROUP = 3
MAX_ROWS = 5000
"""Maximum test rows shown with their texts, to limit the page's size; wrong ones come first."""
MIN_MEASURABLE = 24
"""Minimum rows of a kind to measure its share of failures to about 20 points (Wilson, 95%)."""
_NO_MORE_DATA = {
    "error": "Read the error in the predictions and fix its cause; these rows say nothing about the model.",
    "truncated": "Raise output.max_new_tokens (baseline.max_new_tokens for labels) if the right answers need it; else "
    "train longer, so that the model learns where an answer ends.",
    "empty": "Train longer, and look for empty or very short answers in the training rows.",
    "repetition": "Train longer or with a lower learning rate; look for answers in the training rows that repeat themselves.",
    "refusal": "Look for refusals among the training answers, and remove them unless they are wanted.",
    "format": "Restrict decoding to the declared form, or train longer: the form is the same in every training row.",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Texts that share distinctive terms.

    Attributes:
        terms: The most distinctive terms of the members, best first; empty for the ungrouped.
        in_test: Number of texts of the whole test with the first term.
        in_group: Number of members with it.
    """

    ids: tuple[str, ...]
    terms: tuple[str, ...]
    in_test: int = 0
    in_group: int = 0


def terms_of(text: str) -> set[str]:
    """Words and pairs of neighbouring words, case-folded."""
    words = [word.casefold() for word in _WORD.findall(text)]
    return {*words, *(f"{a} {b}" for a, b in pairwise(words))}


def clusters(failed: Collection[str], texts: Mapping[str, str]) -> list[Cluster]:
    """Group the ids `failed`, largest group first, the ungrouped ones last. texts: of the whole test.

    Repeatedly takes the most distinctive term of the remaining failed texts (one-sided Fisher's exact test). Its group is the
    texts with this term, and those that share several of the terms that are distinctive of these.
    """
    terms_by_id = {i: terms_of(text) for i, text in texts.items()}
    remaining = sorted(i for i in failed if i in terms_by_id)
    groups: list[Cluster] = []
    term_counts = Counter(term for row_terms in terms_by_id.values() for term in row_terms)
    while len(remaining) >= MIN_GROUP:
        terms = _distinctive_terms(remaining, terms_by_id, term_counts)
        if not terms:
            break
        seed = [i for i in remaining if terms[0] in terms_by_id[i]]
        related = _distinctive_terms(seed, terms_by_id, term_counts)[:_RELATED_TERMS] or terms[:1]
        members = set(seed) | {i for i in remaining if len(terms_by_id[i].intersection(related)) >= _MIN_SHARED_TERMS}
        ids = tuple(sorted(members))
        groups.append(Cluster(ids, _naming_terms([terms[0], *related]), term_counts[terms[0]], len(seed)))
        remaining = [i for i in remaining if i not in members]
    groups.sort(key=lambda group: (-len(group.ids), group.ids))
    ungrouped = (*remaining, *sorted(i for i in failed if i not in terms_by_id))
    return [*groups, Cluster(ungrouped, ())] if ungrouped else groups


def _distinctive_terms(
    group: Sequence[str], terms_by_id: Mapping[str, set[str]], term_counts: Mapping[str, int]
) -> list[str]:
    """Terms that are significantly more frequent in a group than elsewhere, most significant first."""
    group_counts = Counter(term for i in group for term in terms_by_id[i])
    tried = {term: n for term, n in group_counts.items() if n >= MIN_GROUP}
    if not tried or len(group) == len(terms_by_id):
        return []
    total_counts = [term_counts[term] for term in tried]
    fewer = [n - 1 for n in tried.values()]  # sf is the chance of more than that
    p_values = scipy.stats.hypergeom.sf(fewer, len(terms_by_id), total_counts, len(group))
    p_by_term = {term: p for term, p in zip(tried, p_values, strict=True) if p * len(tried) < SIGNIFICANCE}
    return sorted(p_by_term, key=lambda term: (p_by_term[term], -tried[term], term))


def _naming_terms(terms: Sequence[str]) -> tuple[str, ...]:
    """The first terms that share no word."""
    chosen: list[str] = []
    for term in terms:
        if not any(set(term.split()) & set(earlier.split()) for earlier in chosen):
            chosen.append(term)
    return tuple(chosen[:_NAMING_TERMS])


def failure_atlas(rows: Sequence[Row], output: AnyOutput, texts: Mapping[str, str], neighbours: Neighbours) -> Atlas:
    """Group one model's wrong answers by kind and similarity, largest first. texts: the users' texts, by example id."""
    failures = {row["example_id"]: failure for row in rows if (failure := failure_of(row, output)) is not None}
    ids_by_mistake: dict[tuple[str, str], list[str]] = defaultdict(list)
    for i, failure in failures.items():
        ids_by_mistake[failure.kind, failure.detail].append(i)
    counts = Counter(failure.kind for failure in failures.values())
    known_texts = {i: texts[i] for row in rows if (i := row["example_id"]) in texts}
    right_texts = [text for i, text in known_texts.items() if i not in failures]
    usual = float(np.median(neighbours.counts(right_texts))) if len(right_texts) >= MIN_RIGHT else None
    groups = [
        _group(kind, detail, cluster, known_texts, neighbours, usual)
        for (kind, detail), ids in ids_by_mistake.items()
        for cluster in clusters(ids, known_texts)
    ]
    groups.sort(key=lambda group: (-group.count, group.kind, group.detail, group.terms, group.ids[0]))
    kinds = {kind: counts[kind] for kind in sorted(counts, key=lambda kind: (-counts[kind], list(KINDS).index(kind)))}
    return Atlas(n=len(rows), wrong=len(failures), kinds=kinds, groups=groups)


def _group(
    kind: str,
    detail: str,
    cluster: Cluster,
    texts: Mapping[str, str],
    neighbours: Neighbours,
    usual: float | None,
) -> AtlasGroup:
    group_texts = [texts[i] for i in cluster.ids if i in texts]
    near = float(np.median(neighbours.counts(group_texts))) if group_texts else None
    nearest = neighbours.nearest(group_texts, NEAREST) if group_texts else []
    collect, advice = what_to_do(kind, detail, near, usual, [row.answer for row in nearest])
    ids = sorted(cluster.ids)
    return AtlasGroup(
        kind=kind,
        title=KINDS[kind],
        detail=detail,
        terms=list(cluster.terms),
        count=len(ids),
        share_with_term=cluster.in_group / cluster.in_test if cluster.in_test else None,
        interval=wilson_interval(cluster.in_group, cluster.in_test) if cluster.in_test else None,
        ids=ids,
        nearest=[row.id for row in nearest],
        collect=collect,
        advice=advice,
    )


def what_to_do(
    kind: str, detail: str, near: float | None, usual: float | None, answers: Sequence[str]
) -> tuple[int, str]:
    """Advise on a group of failures; returns (rows to collect, advice).

    Asks for more rows if similar texts are rarer in training than texts similar to correctly answered ones: as many as the
    difference of the medians, and at least enough to measure the group's share of failures next time.

    Args:
        near: Median number of training rows near a text of the group; None if unknown.
        usual: The same for correctly answered texts.
        answers: Those of the nearest training rows.
    """
    if kind in _NO_MORE_DATA:
        return 0, _NO_MORE_DATA[kind]
    given_label = detail.rpartition(" → ")[2] if kind == "label_pair" else None
    same_label = answers.count(given_label) if given_label else 0
    if same_label * 2 > len(answers):
        return 0, (
            f"Read the nearest training rows first: {same_label} of {len(answers)} carry the label given here. Either they are "
            "wrong, or the labels overlap and need a sharper definition."
        )
    if near is None or usual is None:
        return 0, "Read the examples. Too few answers are right to say whether more would help."
    if near >= usual:
        return 0, (
            f"Training has about {near:.0f} rows like each of these and {usual:.0f} like those answered rightly, so more "
            "of the same will hardly help: read the examples for what the answer depends on, and check the training answers."
        )
    missing = math.ceil(usual - near)
    collect = max(missing, MIN_MEASURABLE)
    why = f"training has about {near:.0f} rows like each of these, but {usual:.0f} like each row answered right"
    if collect > missing:
        why += f". Fewer than {MIN_MEASURABLE} would not show whether it helped"
    return collect, f"Collect {counted(collect, 'more row')} like these: {why}."


class ShownRow(Part):
    """A test row that the report shows: its text (None if not kept), the reference, and the answers of base model and candidate
    with whether they are right. first_stage: The answer that a second stage changed; empty if it did not, or if there was none."""

    id: str
    text: str | None = None
    gold: str = ""
    base: str = ""
    candidate: str = ""
    first_stage: str = ""
    base_right: bool = False
    right: bool = False


class ShownRows(Part):
    """The texts of a report, by example id: test rows, and the training rows nearest to failures."""

    tested: dict[str, ShownRow] = Field(default_factory=dict)
    training: dict[str, TrainingRow] = Field(default_factory=dict)

    def of_group(self, group: AtlasGroup) -> list[ShownRow]:
        """The first test rows of a group of failures; those whose texts were not kept have only an id."""
        return [self.tested.get(i) or ShownRow(id=i) for i in group.ids[:SHOWN_OF_GROUP]]

    def nearest_to(self, group: AtlasGroup) -> list[TrainingRow]:
        return [self.training[i] for i in group.nearest if i in self.training]


def shown_rows(
    evaluation: EvaluationResult,
    predictions: Sequence[Row],
    output: AnyOutput,
    texts: Mapping[str, str],
    training: Sequence[TrainingRow] = (),
) -> ShownRows:
    """Collect the test rows, those named in the evaluation first, with truncated texts and answers."""
    groups = evaluation.atlas.groups
    rows = by_model(scored(predictions, output))
    candidate = {row["example_id"]: row for row in rows["candidate"]}
    changed = {i: row for row in rows.get(SUPERVISED, ()) if row["text"] != candidate[i := row["example_id"]]["text"]}
    ids = [*evaluation.regressions.shown, *evaluation.fixes.shown, *(evaluation.never_break.broken or [])]
    ids += [i for group in groups for i in group.ids[:SHOWN_OF_GROUP]]
    ids += [i for group in groups for i in group.ids]
    ids += [*changed, *candidate]
    best = base_at_its_best(rows, output)
    base = {row["example_id"]: row for row in scored(best.answers[best.mode], output)}
    near = {i for group in groups for i in group.nearest}
    return ShownRows(
        tested={
            i: ShownRow(
                id=i,
                text=cut(texts[i], TEXT_LIMIT) if i in texts else None,
                gold=cut(candidate[i]["gold"], ANSWER_LIMIT),
                base=_shown_answer(base[i]),
                candidate=_shown_answer(candidate[i]),
                first_stage=_shown_answer(changed[i]) if i in changed else "",
                base_right=base[i].right,
                right=candidate[i].right,
            )
            for i in list(dict.fromkeys(ids))[:MAX_ROWS]  # once each, in the order of the report
        },
        training={
            row.id: TrainingRow(row.id, cut(row.text, TEXT_LIMIT), cut(row.answer, ANSWER_LIMIT))
            for row in training
            if row.id in near
        },
    )


def _shown_answer(row: Mapping[str, Any]) -> str:
    text = cut(row["text"].strip(), ANSWER_LIMIT)
    if row["status"] == "ok":
        return text
    if row["status"] == "error":
        return f"(failed: {cut(row['error'], ANSWER_LIMIT)})"
    return "(nothing)" if row["status"] == "empty" else f"{text} (cut at the token limit)"
