"""Finds phrases that give the label away: a phrase that is in nearly every row of a label and in nearly no other row, like a tag
`[BUG]` or `category red` that an earlier tool wrote into the text. A model then learns the phrase in place of the task."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import msgspec
import numpy as np

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality.parts import Part
from finetune_pipeline.data.quality.triggers import phrases
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec

LEAST_SHARE = 0.98
"""Of a label's rows that hold the phrase, and of the phrase's rows that have the label. Few natural words have both
for a label of so many rows: `routing` for the routing numbers of banks does, and words of templates. So this only warns."""
LEAST_ROWS = 20
_WORDS = 400
"""Words looked at, from the beginning and the end of a text."""


class GivenAway(Facts, frozen=True, kw_only=True):
    """A phrase that gives a label away: `rows` of the label's `of_label` rows hold it."""

    label: str
    phrase: str
    rows: int
    of_label: int = msgspec.field(name="of")


class InputsPart(Part, frozen=True, kw_only=True, omit_defaults=False):
    """Phrases of the inputs that give their label away."""

    phrases: list[GivenAway] = []


def label_in_input(examples: Sequence[Example], spec: TaskSpec) -> InputsPart:
    """Make the part of the report on labels written into the input. Warns, and asks whether inputs in production will hold the
    phrases."""
    rows = [e for e in examples if e.label is not None]
    if not spec.labels or len({e.label for e in rows}) < 2:
        why = "there is one label" if spec.labels else "the answers are not labels"
        return InputsPart(passed=True, message=f"not asked: {why}", applies=False)
    given_away = _phrases_by_label([e.user_text for e in rows], [str(e.label) for e in rows])
    findings = []
    for phrase in given_away:
        message = (
            f"{phrase.phrase!r} is in {phrase.rows:,} of {phrase.of_label:,} rows with the label {phrase.label!r} "
        )
        message += "and in hardly any other row"
        question = "will the inputs in production hold it? If not, remove it from the texts"
        place = next(e.place for e in rows if e.label == phrase.label)
        findings.append(
            Finding("quality.label_in_input", "warning", place, f"{message}: was the label written in?", question)
        )
    message = "; ".join(f.message for f in findings) or "no phrase gives a label away"
    return InputsPart(passed=not findings, message=message, findings=findings, phrases=given_away)


def _phrases_by_label(texts: Sequence[str], labels: Sequence[str]) -> list[GivenAway]:
    """Return the labels that have such a phrase, each with its longest."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(analyzer=partial(phrases, longest=_WORDS), binary=True, min_df=LEAST_ROWS, dtype=np.int32)
    try:
        matrix, names = counter.fit_transform(texts), counter.get_feature_names_out().tolist()
    except ValueError:  # no phrase occurs in enough rows
        return []
    in_all = np.asarray(matrix.sum(axis=0)).ravel()
    given_away = []
    for label, of_label in sorted(Counter(labels).items()):
        in_label = np.asarray(matrix[np.array(labels) == label].sum(axis=0)).ravel()
        clear = np.flatnonzero((in_label >= LEAST_SHARE * of_label) & (in_label >= LEAST_SHARE * in_all))
        if of_label >= LEAST_ROWS and len(clear):
            best = max(clear.tolist(), key=lambda i: (len(names[i]), names[i]))
            given_away.append(GivenAway(label=label, phrase=names[best], rows=int(in_label[best]), of_label=of_label))
    return given_away
