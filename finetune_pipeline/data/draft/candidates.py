"""Columns that may hold the user's text or the answer, likeliest first: labels with a column each, and the user's text where
several columns hold it: a subject above a body, an instruction and its input, two texts to compare, a question and the choices
it leaves."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import KEY, SAMPLE, Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats.tool_calls import read_tools
from finetune_pipeline.data.quality.linear_model import features, predicted

_PREDICTABLE = 0.1
"""A column without a known name needs this predictability (:func:`_predictability`) to count as label."""
_ON, _OFF = ("1", "1.0", "true"), ("0", "0.0", "false")
_SETTLED = frozenset(("final", "gold", "majority", "adjudicated"))
"""Words in names of labels that several annotators agree on."""
_LEAST_INDICATORS = 3
"""Fewer such columns are more likely labels of their own."""
_HEADS = ("subject", "title", "headline", "betreff", "summary")
_COMPARED = (("premise", "hypothesis"), ("claim", "evidence"), ("text_a", "text_b"))
_SUBJECTS = ("input", *names.CONTEXTS, "schema", "sentence", "document", "article", "story")
"""Columns that a question or an instruction can be about."""
_CHOICES = ("choices", "options", "endings", "alternatives")
_CHOICE = re.compile(r"[a-e]|(option|opt|choice|op|ending|sol)_?([a-e]|[0-5])")
_LETTERS = "ABCDEFGHIJ"
_VERDICTS = ("winner", "preference", "preferred", "choice", "chosen", "better", "best", "label")
_SIDES = (("a", "b"), ("A", "B"), ("1", "2"), ("0", "1"))
"""Ends of the names of two answers to compare; what says that the second is better ends alike, in lower case."""


def texts_of(columns: Mapping[str, Column]) -> list[Column]:
    """Columns that may hold the user's text, likeliest first: by name, unless others hold much more text."""
    some = [c for c in columns.values() if c.is_text]
    longest = max((c.mean_words for c in some), default=0.0)
    written = {c.path for c in some if names.rank(c.name, names.WRITTEN) is not None}
    replies = _replies(some)

    def order(c: Column) -> tuple[bool, bool, bool, int, float]:
        place = names.rank(c.name, names.TEXTS)
        telling = place is not None and c.mean_words >= (longest if c.path in written else min(3.0, 0.3 * longest))
        is_said, is_written = c.is_below(names.SAID) or c in replies, c.path in written and not telling
        return is_said, is_written, not telling, (place or 0) if telling else 0, -c.mean_words

    return sorted(some, key=order)


def _replies(texts: Sequence[Column]) -> list[Column]:
    """The texts that are an assistant's by their names, where others are a user's: `agent_text` beside `customer_text`."""
    asked = any(names.rank(c.name, names.USERS) is not None for c in texts)
    return [c for c in texts if asked and names.rank(c.name, names.ASSISTANTS) is not None]


def answers_of(
    rows: Sequence[RawRow], columns: Mapping[str, Column], texts: Sequence[Column], segments: str | None
) -> list[Column]:
    """Columns that may hold the answer, likeliest first. One value for all rows is none; nor is a list of one."""
    possible = [c for p, c in columns.items() if len(c.values) > 1 and not {f"{p}[0]", f"{p}[].name"} & columns.keys()]
    labels = [c for c in possible if c.is_label]
    asked = texts[0].path if texts else ""
    named = _ranked([c for c in labels if c.path != KEY], names.LABELS)
    named += [c for c in possible if c.path.endswith("[].name") and c.path.replace("[]", "[0]") not in columns]
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


def better_of_two(columns: Mapping[str, Column]) -> tuple[Column, list[str]] | None:
    """The better of two answers, and the columns of both and of the verdict: `response_a`, `response_b` and `winner`. Of two
    equally good ones it is the first."""
    for verdict in (c for c in columns.values() if names.plain_name(c.name) in _VERDICTS):
        for first, second in _SIDES:
            chosen = [v for v in verdict.values if names.plain_name(v).rpartition("_")[2] == second.lower()]
            for column in columns.values():
                other = columns.get(f"{column.path.removesuffix(first)}{second}")
                if column.is_text and column.path.endswith(f"_{first}") and other and other.is_text and chosen:
                    value = f"'{chosen[0]}'" if verdict.kind == "text" else f"`{chosen[0]}`"
                    path = f"{verdict.path} == {value} && {other.path} || {column.path}"
                    return replace(column, path=path), [column.path, other.path, verdict.path]
    return None


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
            answer = min(answers, key=lambda c: not names.is_answer(c.name))
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
