"""Predicts the values of JSON fields that stand in the text, by a conditional random field per field.

A conditional random field (Lafferty, McCallum and Pereira 2001, ICML) labels every token as the beginning of a value (B), its
continuation (I) or neither (O), from the token, its shape and its neighbours. :mod:`.span_fitting` makes the labels of the
training rows. This module needs only python-crfsuite and python-dateutil, since `finetune export` copies it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

Span = tuple[int, int]
"""Start and end of a token or a value in a text."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
NUMBER = re.compile(r"(?<![\w.,])[-+]?\d+(?:[.,]\d+)*(?!\w)")
LONGEST = 40
"""Characters of the longest number or date: Python refuses to convert a number of thousands of digits."""
_WINDOW = 3
"""Tokens on each side that a token's features describe."""
STYLES: Mapping[str, tuple[str, ...]] = {
    "text": ("as written", "lower", "upper", "title", "capitalize"),
    "number": ("decimal point", "decimal comma"),
    "date": ("month first", "day first"),
}
"""How the values of each kind may be written. The training rows choose one per field."""
_CASES: Mapping[str, Callable[[str], str]] = {
    "as written": str,
    "lower": str.lower,
    "upper": str.upper,
    "title": str.title,
    "capitalize": str.capitalize,
}


@dataclass(frozen=True)
class TaggedField:
    """A fitted field.

    Attributes:
        path: Keys from the answer's root.
        kind: A key of STYLES; style: one of its values.
        is_list: The value is a list of everything that is tagged.
        words: Words that stand for a value, in lower case, with its JSON text: `three` for 3.
        absent: JSON text of the value where nothing is tagged; None: another model answers.
        model: The conditional random field in CRFsuite's format.
    """

    path: tuple[str, ...]
    kind: str
    style: str
    is_list: bool
    words: Mapping[str, str]
    absent: str | None
    model: bytes = field(repr=False)

    def read(self, surface: str) -> str | None:
        """Return the JSON text of the value that a part of a text names; None if it names none."""
        return self.words.get(surface.lower()) or read(surface, self.kind, self.style)


@dataclass
class SpanTagger:
    """The fitted fields of a task's answers."""

    fields: Sequence[TaggedField] = ()

    def predict(self, texts: Sequence[str]) -> list[list[str | None]]:
        """Return the JSON text of every field for every text; None where nothing is tagged and another model answers."""
        return [[value for value, _ in row] for row in self.predict_with_shares(texts)]

    def predict_with_shares(self, texts: Sequence[str]) -> list[list[tuple[str | None, float]]]:
        """Return every field's JSON text for every text, as :meth:`predict` does, with its probability: of None, that nothing is
        tagged."""
        import pycrfsuite

        taggers = [pycrfsuite.Tagger() for _ in self.fields]
        for tagger, fitted in zip(taggers, self.fields, strict=True):
            tagger.open_inmemory(fitted.model)
        answers = []
        for text in texts:
            spans = tokens_of(text)
            features = features_of(text, spans)
            pairs = zip(taggers, self.fields, strict=True)
            answers.append([_answer(fitted, text, spans, tagger, features) for tagger, fitted in pairs])
        return answers

    def save(self, folder: Path) -> None:
        """Write span_tagger.json and a model file per field."""
        described = [asdict(fitted) for fitted in self.fields]
        for number, description in enumerate(described):
            (folder / f"span_tagger_{number}.crfsuite").write_bytes(description.pop("model"))
        (folder / "span_tagger.json").write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path) -> SpanTagger:
        """Read what :meth:`save` wrote."""
        fields = []
        for number, described in enumerate(json.loads((folder / "span_tagger.json").read_text("utf-8"))):
            model = (folder / f"span_tagger_{number}.crfsuite").read_bytes()
            fields.append(TaggedField(**{**described, "path": tuple(described["path"]), "model": model}))
        return cls(fields)


def tokens_of(text: str) -> list[Span]:
    """Return the places of the words and signs of a text."""
    return [match.span() for match in _TOKEN.finditer(text)]


def features_of(text: str, spans: Sequence[Span]) -> list[list[str]]:
    """Return the features of every token: the words and shapes around it, affixes of the nearest ones, and pairs of words."""
    words = [text[start:end].lower() for start, end in spans]
    shapes = [_shape(text[start:end]) for start, end in spans]
    rows = []
    for i in range(len(words)):
        row = ["bias"]
        for offset in range(-_WINDOW, _WINDOW + 1):
            j = i + offset
            if not 0 <= j < len(words):
                row.append(f"{offset}:none")
                continue
            row += [f"{offset}:word={words[j]}", f"{offset}:shape={shapes[j]}"]
            if abs(offset) <= 1:
                row += [f"{offset}:prefix={words[j][:3]}", f"{offset}:suffix={words[j][-3:]}"]
        row += [f"before={words[i - 1]} {words[i]}"] if i else []
        row += [f"after={words[i]} {words[i + 1]}"] if i + 1 < len(words) else []
        rows.append(row)
    return rows


def read(surface: str, kind: str, style: str) -> str | None:
    """Return the JSON text of the text, number or date that a part of a text names; None if it names none of this kind."""
    if kind == "text":
        return json.dumps(_CASES[style](surface), ensure_ascii=False)
    if len(surface) > LONGEST:
        return None
    return _read_number(surface, style) if kind == "number" else _read_date(surface, style)


def _read_number(surface: str, style: str) -> str | None:
    if not NUMBER.fullmatch(surface):
        return None
    thousands, decimal = (",", ".") if style == "decimal point" else (".", ",")
    whole, _, rest = surface.replace(thousands, "").partition(decimal)
    if decimal in rest:
        return None
    return number_text(float(f"{whole}.{rest}") if rest else int(whole))


def number_text(value: float) -> str:
    """Return a number's JSON text, the same for 12 and 12.0."""
    return json.dumps(int(value) if isinstance(value, float) and value.is_integer() else value)


def _read_date(surface: str, style: str) -> str | None:
    from dateutil import parser

    try:
        # what the text does not say is taken from the default: two of them show whether it says all
        dates = {
            parser.parse(surface, dayfirst=style == "day first", default=default, ignoretz=True).date()
            for default in (datetime(2001, 1, 1), datetime(2002, 2, 2))
        }
    except (ValueError, ArithmeticError):  # the second from numbers that are no part of a date
        return None
    return json.dumps(dates.pop().isoformat()) if len(dates) == 1 else None


def _answer(
    fitted: TaggedField, text: str, spans: Sequence[Span], tagger: Any, features: list[list[str]]
) -> tuple[str | None, float]:
    """Return the value of the likeliest tagged part of a text that can be read, or of all of them for a list, and its probability.

    That of a part is the least of the marginal probabilities of its tokens' labels and of its end; that of a list, and of nothing,
    is the probability of the labels of the whole text.
    """
    values: list[tuple[float, str, float]] = []
    labels = tagger.tag(features) if features else []
    for i, label in enumerate(labels):
        if label == "B":
            end = i
            while end + 1 < len(labels) and labels[end + 1] == "I":
                end += 1
            value = fitted.read(text[spans[i][0] : spans[end][1]])
            if value is not None:
                first = tagger.marginal("B", i)
                inside = (tagger.marginal("I", j) for j in range(i + 1, end + 1))
                ended = 1 - _inside(tagger, end + 1) if end + 1 < len(labels) else 1.0
                values.append((first, value, min(first, ended, *inside)))
    if values and not fitted.is_list:
        _, likeliest, share = max(values, key=lambda value: value[0])
        return likeliest, share
    share = tagger.probability(labels) if labels else 1.0
    return "[" + ", ".join(value for _, value, _ in values) + "]" if values else fitted.absent, share


def _inside(tagger: Any, i: int) -> float:
    """Return the probability that a token continues a value; 0 where no value of the training rows has two tokens."""
    return float(tagger.marginal("I", i)) if "I" in tagger.labels() else 0.0


def _shape(word: str) -> str:
    """Return the kinds of characters of a word in order: `Aa` of `Berlin`, `0` of `250`, `A0` of `P250`."""
    kinds = ["0" if c.isdigit() else "A" if c.isupper() else "a" if c.isalpha() else c for c in word]
    return "".join(kind for i, kind in enumerate(kinds) if i == 0 or kind != kinds[i - 1])
