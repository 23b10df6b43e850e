"""Columns that may hold the user's text or the answer, likeliest first, and labels with a column each."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import KEY, SAMPLE, Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.quality.linear_model import features, predicted

_PREDICTABLE = 0.1
"""A column without a known name needs this predictability (:func:`_predictability`) to count as label."""
_ON, _OFF = ("1", "1.0", "true"), ("0", "0.0", "false")
_SETTLED = frozenset(("final", "gold", "majority", "adjudicated"))
"""Words in names of labels that several annotators agree on."""
_LEAST_INDICATORS = 3
"""Fewer such columns are more likely labels of their own."""


def texts_of(columns: Mapping[str, Column]) -> list[Column]:
    """Columns that may hold the user's text, likeliest first: by name, unless others hold much more text."""
    some = [c for c in columns.values() if c.is_text]
    longest = max((c.mean_words for c in some), default=0.0)
    written = {c.path for c in some if names.rank(c.name, names.WRITTEN) is not None}
    replies = _replies(some)

    def order(c: Column) -> tuple[bool, bool, bool, int, float]:
        place = names.rank(c.name, names.TEXTS)
        telling = place is not None and c.mean_words >= (longest if c.path in written else min(3.0, 0.3 * longest))
        return (
            c.is_below(names.SAID) or c in replies,
            c.path in written and not telling,
            not telling,
            place or 0 if telling else 0,
            -c.mean_words,
        )

    return sorted(some, key=order)


def _replies(texts: Sequence[Column]) -> list[Column]:
    """The texts that are an assistant's by their names, where others are a user's: `agent_text` beside `customer_text`."""
    asked = any(names.rank(c.name, names.USERS) is not None for c in texts)
    return [c for c in texts if asked and names.rank(c.name, names.ASSISTANTS) is not None]


def answers_of(
    rows: Sequence[RawRow], columns: Mapping[str, Column], texts: Sequence[Column], segments: str | None
) -> list[Column]:
    """Columns that may hold the answer, likeliest first. One value for all rows is none; nor is a list of one."""
    possible = [c for p, c in columns.items() if len(c.values) > 1 and f"{p}[0]" not in columns]
    labels = [c for c in possible if c.is_label]
    asked = texts[0].path if texts else ""
    named = _ranked([c for c in labels if c.path != KEY], names.LABELS)
    # written answers of known names come before labels: a question's category is beside its answer
    usual = [c for c in possible if names.rank(c.name, names.WRITTEN) is not None and c.path != asked]
    usual = [c for c in usual if c.filled >= 0.5 * c.rows and not c.is_id and c not in named]
    usual = [c for c in usual if not asked.startswith(f"{c.path}.")]  # what holds the text is no answer
    written = _ranked([c for c in usual if c.is_text or c.is_json or c.is_label or c.numeric], names.WRITTEN)
    unnamed, unpredictable = [c for c in labels if c not in named and c not in written], []
    if asked and not named and not written and (len(unnamed) > 1 or len(texts) > 1):
        gain = {c.path: _predictability(rows, asked, c.path) for c in unnamed}
        unpredictable = [c for c in unnamed if gain[c.path] <= _PREDICTABLE or (c.is_reference and len(texts) > 1)]
        unnamed = [c for c in unnamed if c not in unpredictable]
        unnamed.sort(key=lambda c: (-round(gain[c.path], 1), c.numeric))
    structured = [c for c in possible if c.is_json and c.is_top and c not in written]
    structured = [c for c in structured if f"{c.path}[]" not in (segments or "")]
    said = [c for c in texts[1:] if c.is_below(names.SAID) and c.name in ("text", "content")] + _replies(texts)
    second = [c for c in texts[1:] if c not in written]
    unknown = all(names.rank(c.name, names.TEXTS) is None for c in texts)
    if len(texts) > 1 and not written and (unknown or len(texts) == 2):  # the first column asks, the second answers
        first, last = sorted(texts, key=lambda c: list(columns).index(c.path))[:2]
        second = [last] if asked == first.path or unknown else [first]
    found = {c.path: c for c in [*written, *named, *unnamed, *said, *structured, *second, *unpredictable]}
    asks = {path: c.is_below(names.ASKED) and not c.is_below(names.SAID) for path, c in found.items()}
    return sorted(found.values(), key=lambda c: (c.is_guess or c.is_decision, asks[c.path]))


def _ranked(columns: Sequence[Column], known: tuple[str, ...]) -> list[Column]:
    ranked = [(place, c) for c in columns if (place := names.rank(c.name, known)) is not None]
    settled = {c.path for _, c in ranked if not _SETTLED.isdisjoint(names.plain_name(c.name).split("_"))}
    return [c for _, c in sorted(ranked, key=lambda of: (of[0], of[1].path not in settled))]


def _predictability(rows: Sequence[RawRow], text: str, label: str) -> float:
    """How well a linear model predicts a column from the texts: held-out accuracy, rescaled from 0 (the most common
    value) to 1."""
    step = max(1, len(rows) // SAMPLE)
    pairs = []
    for row in rows[::step]:
        values = {path: value for path, _, value in leaves(row.value)} | {KEY: row.key}
        if values.get(text) is not None and values.get(label) is not None:
            pairs.append((as_text(values[text]), as_text(values[label])))
    if len(pairs) < 20:
        return 0.0
    matrix = features([t for t, _ in pairs])
    classes, given = np.unique([value for _, value in pairs], return_inverse=True)
    held = np.random.default_rng(0).random(len(pairs)) < 1 / 3  # labels may come in turn
    guessed = predicted(matrix[~held], given[~held], matrix[held], len(classes)).argmax(axis=1)
    commonest = Counter(given[~held].tolist()).most_common(1)[0][0]
    base, right = float((given[held] == commonest).mean()), float((guessed == given[held]).mean())
    return (right - base) / max(1e-9, 1 - base)


def indicators(columns: Mapping[str, Column], answer: Column) -> list[Column]:
    """The columns of labels, the likeliest answer among them; none if they are few, or its name says that it is one alone."""
    some = [c for c in columns.values() if c.path.rpartition(".")[0] == answer.path.rpartition(".")[0]]
    some = [c for c in some if c.filled == c.rows and "'" not in c.name and len(c.values) == 2]
    some = [c for c in some if {value.casefold() for value in c.values} <= {*_ON, *_OFF}]
    alone = names.plain_name(answer.name) in names.LABELS and not any(f"_{answer.name}" in c.name for c in some)
    return some if len(some) >= _LEAST_INDICATORS and answer in some and not alone else []


def labels_of(columns: list[Column]) -> str:
    """The expression of the names of the columns that say yes, or `none`."""
    asked = []
    for column in columns:
        on = next((value for value in column.values if value.casefold() in _ON), "1")
        value = f"'{on}'" if column.kind == "text" else f"`{json.dumps(json.loads(on))}`"
        asked.append(f"{column.path} == {value} && '{column.name}'")
    return f"join(', ', [{', '.join(asked)}][?@]) || 'none'"
