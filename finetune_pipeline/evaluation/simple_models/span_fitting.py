"""Fits the span tagger: finds where the values of the training answers stand in the texts, and trains on these places."""

import json
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.simple_models.span_tagger import (
    NUMBER,
    STYLES,
    Span,
    SpanTagger,
    TaggedField,
    features_of,
    number_text,
    read,
    tokens_of,
)

FEWEST_PLACED = 0.5
"""A field is tagged if the values of at least this share of the training rows that have one stand in the text."""
MAX_TOKENS = 400_000
"""Maximum tokens of the training rows, times the number of fields: the features of all tokens are in memory at once."""
SETTINGS = {"c1": 0.1, "c2": 0.01, "max_iterations": 40}
"""L1 and L2 regularisation, and iterations of L-BFGS."""
FEWEST_OF_A_WORD, SHARE_OF_A_WORD = 3, 0.9
"""A word stands for a value if it is in so many of the texts whose value is not, and this share of those have that value."""
_MOST_OF_A_VALUE = 0.5
"""A value that more of these rows have goes with every word."""
DATE = re.compile(r'"\d{4}-\d\d-\d\d"')
"""JSON text of a date."""
_DATE_TOKENS = 8
"""Maximum tokens of a date in a text."""


def fit_span_tagger(
    texts: Sequence[str], columns: Mapping[tuple[str, ...], Sequence[str]], answered: frozenset[tuple[str, ...]]
) -> SpanTagger:
    """Fit every field whose values stand in the texts.

    Args:
        columns: The JSON text of each field's value by path, one per text; empty where the answer lacks the field.
        answered: Fields for which another model answers where nothing is tagged, absent values included.
    """
    spans = [tokens_of(text) for text in texts]
    step = max(1, -(-sum(map(len, spans)) * len(columns) // MAX_TOKENS))
    texts, spans = texts[::step], spans[::step]
    features = [features_of(text, of_text) for text, of_text in zip(texts, spans, strict=True)]
    fields = [
        _fit_field(path, texts, spans, features, column[::step], path in answered) for path, column in columns.items()
    ]
    return SpanTagger([fitted for fitted in fields if fitted is not None])


def _fit_field(
    path: tuple[str, ...],
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    features: Sequence[list[list[str]]],
    column: Sequence[str],
    is_answered: bool,
) -> TaggedField | None:
    """Fit one field. None if its values are not all of one kind, or stand in too few of the texts."""
    values = [json.loads(text) if text else None for text in column]
    rows = [[_json_text(item) for item in _items(value)] for value in values]
    is_list = any(isinstance(value, list) for value in values)
    kind = _kind_of([item for value in values for item in _items(value)])
    if kind is None or (is_list and not all(value is None or isinstance(value, list) for value in values)):
        return None
    places = [
        [_place(text, of_text, item, kind) for item in row]
        for text, of_text, row in zip(texts, spans, rows, strict=True)
    ]
    words = {} if kind == "text" else _words_for_values(texts, spans, rows, places)
    for i, row in enumerate(rows):
        by_word = (next((s for s in spans[i] if words.get(texts[i][slice(*s)].lower()) == item), None) for item in row)
        places[i] = [place or of_word for place, of_word in zip(places[i], by_word, strict=True)]
    with_value = [i for i, row in enumerate(rows) if row]
    placed = [i for i in with_value if all(places[i])]
    if not placed or len(placed) < FEWEST_PLACED * len(with_value):
        return None
    without = [i for i, row in enumerate(rows) if not row]
    absent = Counter(column[i] for i in without).most_common(1)[0][0] if without and not is_answered else None
    surfaces = [(texts[i][slice(*p)], item) for i in placed for p, item in zip(places[i], rows[i], strict=True) if p]
    style = max(STYLES[kind], key=lambda style: sum(read(surface, kind, style) == item for surface, item in surfaces))
    model = _train([(features[i], _labels(spans[i], places[i])) for i in sorted([*placed, *without])])
    return TaggedField(path, kind, style, is_list, words, absent, model)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _json_text(item: Any) -> str:
    is_number = isinstance(item, int | float) and not isinstance(item, bool)
    return number_text(item) if is_number else json.dumps(item, ensure_ascii=False)


def _kind_of(items: Sequence[Any]) -> str | None:
    """Return the kind that all values have; None if they have several, or one that stands in no text."""
    if not items or any(isinstance(item, bool | dict | list | None) for item in items):
        return None
    if all(isinstance(item, int | float) for item in items):
        return "number"
    if not all(isinstance(item, str) and item.strip() for item in items):
        return None
    return "date" if all(DATE.fullmatch(json.dumps(item)) for item in items) else "text"


def _place(text: str, spans: Sequence[Span], item: str, kind: str) -> Span | None:
    """Return where a value, given as JSON text, first stands in a text; None if it does not."""
    if kind == "text":
        value = re.escape(str(json.loads(item)).strip())
        match = re.search(rf"(?<!\w){value}(?!\w)", text, re.IGNORECASE)
        return match.span() if match else None
    if kind == "number":
        numbers = (match.span() for match in NUMBER.finditer(text))
        return next((n for n in numbers if any(read(text[slice(*n)], kind, s) == item for s in STYLES[kind])), None)
    year, _, day = json.loads(item).split("-")
    for first in range(len(spans)):
        for last in range(min(len(spans), first + _DATE_TOKENS) - 1, first - 1, -1):
            place = spans[first][0], spans[last][1]
            surface = text[slice(*place)]
            if (
                year[2:] in surface
                and str(int(day)) in surface
                and any(read(surface, kind, s) == item for s in STYLES[kind])
            ):
                return place
    return None


def _words_for_values(
    texts: Sequence[str],
    spans: Sequence[Sequence[Span]],
    rows: Sequence[Sequence[str]],
    places: Sequence[Sequence[Span | None]],
) -> dict[str, str]:
    """Return the words that stand for a value, learned from the texts in which the value itself does not stand."""
    rows_with: dict[str, Counter[str]] = defaultdict(Counter)
    total: Counter[str] = Counter()
    for text, of_text, row, of_row in zip(texts, spans, rows, places, strict=True):
        if len(row) == 1 and of_row[0] is None:
            total[row[0]] += 1
            for word in {text[slice(*span)].lower() for span in of_text}:
                rows_with[word][row[0]] += 1
    words = {}
    for word, counts in rows_with.items():
        (item, count), n = counts.most_common(1)[0], counts.total()
        is_common = total[item] > _MOST_OF_A_VALUE * total.total()
        if word.isalpha() and count >= max(FEWEST_OF_A_WORD, SHARE_OF_A_WORD * n) and not is_common:
            words[word] = item
    return words


def _labels(spans: Sequence[Span], places: Sequence[Span | None]) -> list[str]:
    """Return the label of every token: B and I within the values' places, O elsewhere."""
    labels = ["O"] * len(spans)
    for place in filter(None, places):
        inside = [i for i, (start, end) in enumerate(spans) if start >= place[0] and end <= place[1]]
        for i in inside:
            labels[i] = "B" if i == inside[0] else "I"
    return labels


def _train(rows: Sequence[tuple[list[list[str]], list[str]]]) -> bytes:
    """Train a conditional random field on features and labels. Returns it in CRFsuite's format."""
    import pycrfsuite

    trainer = pycrfsuite.Trainer(verbose=False)
    trainer.set_params(SETTINGS)
    for features, labels in rows:
        trainer.append(features, labels)
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(str(Path(folder) / "model"))
        return (Path(folder) / "model").read_bytes()
