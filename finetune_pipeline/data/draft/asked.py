"""The user's text where several columns hold it: a subject above a body, an instruction and its input, two texts to compare, a
question and the choices it leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import SAMPLE, Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats.tool_calls import read_tools

_HEADS = ("subject", "title", "headline", "betreff", "summary")
_COMPARED = (("premise", "hypothesis"), ("claim", "evidence"), ("text_a", "text_b"))
_SUBJECTS = ("input", *names.CONTEXTS, "schema", "sentence", "document", "article", "story")
"""Columns that a question or an instruction can be about."""
_CHOICES = ("choices", "options", "endings", "alternatives")
_CHOICE = re.compile(r"[a-e]|(option|opt|choice|op|ending|sol)_?([a-e]|[0-5])")
_LETTERS = "ABCDEFGHIJ"


def asked_text(text: Column, others: Sequence[Column] | None) -> tuple[str, set[str]]:
    """(expression of the user's text, columns it reads): a subject or title is put above the text, a text that it is compared
    with beneath or above it, as the columns stand."""
    if both := compared(text, others or ()):
        return joined(*(c.path for c in both)), {c.path for c in both}
    heads = [c for c in others or () if c.is_top]
    head = next((c for c in heads if names.plain_name(c.name) in _HEADS), None)
    if head is None or names.plain_name(text.name) in _HEADS:
        return text.expression, {text.path}
    return joined(head.path, text.path), {head.path, text.path}


def joined(*texts: str) -> str:
    """The expression of texts with a blank line between them. JMESPath knows line ends in JSON's notation alone."""
    return f'join(`"\\n\\n"`, [{", ".join(texts)}][?@])'


def compared(text: Column, others: Sequence[Column]) -> list[Column]:
    """The two texts of a question about both, such as `sentence1` and `sentence2`, in this order; empty for a single text."""
    for other in others:
        first, second = both = sorted((text, other), key=lambda c: names.plain_name(c.name))
        plain = [names.plain_name(c.name) for c in both]
        if known := next((pair for pair in _COMPARED if {*pair} == {*plain}), None):
            return sorted(both, key=lambda c: known.index(names.plain_name(c.name)))
        numbered = "1" in plain[0] and "2" in plain[1] and len(plain[0]) > 2  # c1 is a column without a name
        if numbered and plain[0].replace("1", "#") == plain[1].replace("2", "#"):
            return [first, second]
    return []


def instruction(text: Column, others: Sequence[Column], asked_by: Sequence[str]) -> tuple[Column, Column] | None:
    """(instruction, input) if both columns exist: a question and what it is about, too."""
    by_name = {names.plain_name(c.name): c for c in (*others, text)}
    asked = next((by_name[name] for name in asked_by if name in by_name), None)
    subject = next((c for name in _SUBJECTS if (c := by_name.get(name)) and 2 * c.filled > c.rows), None)
    return (asked, subject) if asked and subject and asked is not subject else None


def without_wholes(rows: Sequence[RawRow], texts: Sequence[Column]) -> list[Column]:
    """The columns without those that are put together of two others, as Alpaca's `text` is of request and answer."""
    some = [{path: as_text(value) for path, _, value in leaves(row.value)} for row in rows[:50]]

    def is_whole(whole: Column) -> bool:
        parts, words = 0, 0.0
        for part in (c for c in texts if c is not whole and c.mean_words < whole.mean_words):
            both = [(row[whole.path], row[part.path]) for row in some if row.get(part.path) and row.get(whole.path)]
            if len(both) > 1 and all(short in long for long, short in both):
                parts, words = parts + 1, words + part.mean_words
        return parts > 1 and words >= whole.mean_words / 2

    return [c for c in texts if not is_whole(c)]


def has_tools(rows: Sequence[RawRow]) -> bool:
    """Whether every row has tools beside its texts that a model may call."""
    lists = [row.value.get("tools") if isinstance(row.value, dict) else None for row in rows[:SAMPLE]]
    problems: list[str] = []
    return all(read_tools(tools, lambda rule, *_: problems.append(rule)) for tools in lists) and not problems


@dataclass(frozen=True)
class Choices:
    """The choices that a question leaves. expression: of their lines, each with its mark. answer: the column that names the right
    one by its mark. paths: the columns read."""

    expression: str
    answer: Column
    paths: frozenset[str]


def choices_of(rows: Sequence[RawRow], columns: Mapping[str, Column], named: str | None = None) -> Choices | None:
    """The choices of multiple-choice questions, in a list or in columns of their own; None if there are none, or no column names
    the right one by its letter or number."""
    texts, first, paths = _listed_choices(rows, columns) or _choice_columns(columns)
    if not 2 <= len(texts) <= len(_LETTERS):
        return None
    for marks in (_LETTERS, "0123456789", "123456789"):
        usual = {*marks[: len(texts)]}
        answers = [c for p, c in columns.items() if p not in paths and len(c.values) > 1 and c.values.keys() <= usual]
        answers = [c for c in answers if named in (None, c.name, c.path)]
        if answers:
            answer = min(answers, key=lambda c: names.rank(c.name, (*names.LABELS, *names.WRITTEN)) is None)
            if not all(text.lstrip("( ").startswith(mark) for text, mark in zip(first, marks, strict=False)):
                texts = [f"{t} && join('. ', ['{m}', {t}])" for t, m in zip(texts, marks, strict=False)]
            return Choices(f'join(`"\\n"`, [{", ".join(texts)}][?@])', answer, paths)
    return None


_Found = tuple[list[str], list[str], frozenset[str]]
"""Expressions of the choices, their texts in one row, and the columns they are in."""


def _listed_choices(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> _Found | None:
    """Choices in a list of texts, or of objects with a `text`."""
    for column in columns.values():
        if column.kind != "list" or not any(names.plain_name(part) in _CHOICES for part in column.path.split(".")):
            continue
        read = compile_expression(column.path)[0]
        found = [read(row.value, "", None) for row in rows[:SAMPLE] if isinstance(row.value, dict)]
        lists = [some for some in found if isinstance(some, list)]
        inner = ".text" if all(isinstance(item, dict) and "text" in item for some in lists for item in some) else ""
        first = [item["text"] if inner else item for item in max(lists, key=len, default=[])]
        if all(isinstance(item, str) for item in first):
            texts = [f"{column.path}[{i}]{inner}" for i in range(len(first))]
            return texts, first, frozenset((column.path, column.path.split(".")[0]))
    return None


def _choice_columns(columns: Mapping[str, Column]) -> _Found:
    """Choices in columns of their own, by name; or, as in MMLU without a header, between the question and a letter."""
    own = [c for c in columns.values() if c.kind == "text" and _CHOICE.fullmatch(names.plain_name(c.name))]
    nameless = len(columns) > 4 and all(re.fullmatch(r"c\d+", path) for path in columns)
    if nameless and not own:
        _, *between, last = columns.values()
        own = between if {*last.values} == {*_LETTERS[: len(between)]} else []
    return [c.path for c in own], [next(iter(c.values), "") for c in own], frozenset(c.path for c in own)
