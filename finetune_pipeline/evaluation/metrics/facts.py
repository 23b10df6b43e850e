"""Facts in a text that rules can check: numbers, dates, identifiers and negation.

They catch what word overlap misses: a changed amount, another date, an extra "not".
"""

import re
from collections import Counter

from finetune_pipeline.data.dedup.text_similarity import NUMBERS
from finetune_pipeline.evaluation.correctness import Row, scored_text
from finetune_pipeline.evaluation.metrics.base import RowMetric, register
from finetune_pipeline.spec.outputs import AnyOutput

_MONTHS = {
    name: i + 1
    for i, names in enumerate(
        (
            *("january jan", "february feb", "march mar", "april apr", "may", "june jun", "july jul", "august aug"),
            *("september sep sept", "october oct", "november nov", "december dec"),
        )
    )
    for name in names.split()
}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_DAY_FIRST = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)?\.?\s+(?:of\s+)?({_MONTH})\b\.?(?:,?\s+(\d{{4}}))?", re.I)
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\b\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(\d{{4}}))?", re.I)
_ISO = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_CLOCK = re.compile(r"\b(\d{1,2}):(\d{2})(?::\d{2})?\s*([ap]m)?\b", re.I)
_IDENTIFIER = re.compile(  # with limits: a model that repeats `ha-ha-…` would cost the square of its length
    r"\b(?=[\w-]{,64}\d)(?=[\w-]{,64}[A-Za-z])[A-Za-z0-9][\w-]{2,}\b|\b[\w.+-]{1,64}@[\w-]+\.[\w.]+\b|https?://\S+"
)
_ORDINAL = re.compile(r"^\d+(?:st|nd|rd|th)$", re.I)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.])[-−]?\d+(?:\.\d+)?")
_NUMBER_WORD = re.compile(rf"\b({'|'.join(w for w in NUMBERS if w not in ('one', 'zero'))})\b", re.I)
_NEGATION = re.compile(
    r"\b(?:no|not|never|none|nothing|nobody|neither|nor|without|cannot|unable|(?:do|does|did|is|are|was|were|has|have|had|"
    r"wo|would|ca|could|should|must)n['’]?t)\b",
    re.I,
)


def facts(text: str) -> Counter[tuple[str, str]]:
    """(kind, value) of every checkable fact, with multiplicity 1: kinds number, date, time, id, and one `negation`.

    Recognises dates with a month's name and ISO 8601; others stay numbers. Number words up to ninety count as digits (`one` does
    not: it is rarely a number).
    """
    values: set[tuple[str, str]] = {("negation", str(bool(_NEGATION.search(text))))}
    remaining_text = text

    def take(pattern: re.Pattern[str], kind: str, value: object) -> None:
        nonlocal remaining_text

        def note(match: re.Match[str]) -> str:
            fact = value(match) if callable(value) else match[0]
            if fact is None:
                return match[0]
            values.add((kind, fact))
            return " "

        remaining_text = pattern.sub(note, remaining_text)

    take(_ISO, "date", lambda m: _date(m[1], int(m[2]), m[3]))
    take(_DAY_FIRST, "date", lambda m: _date(m[3], _MONTHS[m[2].lower()], m[1]))
    take(_MONTH_FIRST, "date", lambda m: _date(m[3], _MONTHS[m[1].lower()], m[2]))
    take(_CLOCK, "time", lambda m: f"{(int(m[1]) % 12 + 12 * (m[3].lower() == 'pm')) if m[3] else int(m[1])}:{m[2]}")
    take(_IDENTIFIER, "id", lambda m: None if _ORDINAL.match(m[0]) else m[0].rstrip(".,;)").casefold())
    take(_NUMBER, "number", lambda m: _plain(m[0]))
    take(_NUMBER_WORD, "number", lambda m: NUMBERS[m[0].lower()])
    return Counter(dict.fromkeys(values, 1))


def _date(year: str | None, month: int, day: str) -> str | None:
    return f"{year or '?'}-{month:02d}-{int(day):02d}" if 1 <= month <= 12 and 1 <= int(day) <= 31 else None


def _plain(number: str) -> str:
    text = number.replace(",", "").replace("−", "-")
    return text.rstrip("0").rstrip(".") if "." in text else text


def fact_score(prediction: str, reference: str) -> float:
    """F1 of the facts of a prediction against those of its reference, from 0 to 1; 0 for a text without a word."""
    if not re.search(r"\w", prediction):
        return 0.0
    stated, expected = facts(prediction), facts(reference)
    return 2 * sum((stated & expected).values()) / (sum(stated.values()) + sum(expected.values()))


@register
class Facts(RowMetric):
    name, kinds, title = "facts", ("text",), "F1 of the facts"
    described = "numbers, dates, times, identifiers and negation shared with the right text, F1"

    def row_score(self, row: Row, output: AnyOutput) -> float:
        return fact_score(scored_text(row), str(row["gold"]))
