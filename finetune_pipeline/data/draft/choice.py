"""Chooses the columns that hold the user's text and the answer, in the terms of `data.fields`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.columns import ELEMENT, KEY, Column, as_text, columns_of, exploded, leaves
from finetune_pipeline.data.draft.conversations import Chat, chat_of, whole_chat, with_answer
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.quality.linear_model import features, predicted

SAMPLE = 2_000
"""Rows used to compare columns without a known name."""
_PREDICTABLE = 0.1
"""A column without a known name needs this predictability (:func:`_predictability`) to count as label."""
_HEADS = ("subject", "title", "headline", "betreff", "summary")


@dataclass(frozen=True)
class Choice:
    """How rows are mapped.

    Attributes:
        fields: For `data.fields`; empty if a registered format reads the rows as they are.
        text, answer: The chosen columns.
        texts, answers: All candidate columns, the chosen one first.
        unused: Columns that nothing reads.
        flag: (list, key): elements of that list are left out where the key is true.
        chat: The turns, if the rows are conversations.
    """

    fields: dict[str, str] = field(default_factory=dict)
    text: str = ""
    answer: str = ""
    texts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    flag: tuple[str, str] | None = None
    chat: Chat | None = None


def choose(rows: Sequence[RawRow], text: str | None = None, answer: str | None = None) -> Choice | str:
    """Choose the columns with the user's text and the answer, or take the named ones; or say why there are none."""
    if not (text or answer) and (chat := whole_chat(rows)):
        keys = dict.fromkeys(key for row in rows if isinstance(row.value, dict) for key in row.value)
        return Choice(chat=chat, unused=[names.key_path(key) for key in keys if key not in chat.columns])
    columns = columns_of(rows)
    if unknown := [name for name in (text, answer) if name and _column(columns, name) is None]:
        return f"there is no column {', '.join(map(repr, unknown))}; {_described(columns)}"
    chat = None if text or answer else chat_of(rows, columns)
    if chat and (chat := with_answer(chat, rows, columns)):
        return Choice(chat.fields, chat=chat, unused=_unused(columns, {*chat.columns, *chat.fields.values()}))
    lists = [c for c in columns.values() if c.kind == "list" and c.is_top and not c.is_guess and c.path[0] != "["]
    flags = {c.path: flag for c in lists if (flag := _flag(rows, c.path))}
    for column in lists if not answer else ():
        if key := _speaking_ids(rows, column.path):
            return f"{column.path} holds turns whose speakers are ids: {key}; put who speaks, customer or agent, into `role`"
    choice = _pair(rows, columns, text, answer)
    if choice is not None and not flags and (answer or _is_answer(columns[choice.answer].name)):
        return choice
    for column in sorted(lists, key=lambda c: c.path not in flags):
        flag = flags.get(column.path)
        inner = [row for row in exploded(rows, column.path) if not (flag and row.value.get(flag))]
        own = columns_of(inner)
        pair = _pair(inner, own, text, answer) if len(inner) >= len(rows) / 2 else None
        if pair and (choice is None or flag or _is_answer(own[pair.answer].name)):
            each = f"{column.path}[?!{flag}]" if flag else column.path
            return replace(pair, fields={"each": each, **pair.fields}, flag=(column.path, flag) if flag else None)
    if choice is not None:
        return choice
    return f"no two columns look like a text and its answer; {_described(columns)}"


def _flag(rows: Sequence[RawRow], path: str) -> str | None:
    """The key that marks elements of a list as no answer, if they have one."""
    keys = frozenset[str]().union(*(row.value for row in exploded(rows[:SAMPLE], path)))
    return next((flag for flag in names.FLAGS if flag in keys), None)


def _speaking_ids(rows: Sequence[RawRow], path: str) -> str | None:
    """The key of the speaker's id, if the elements of a list are what several speakers said."""
    lists = [row.value.get(path) for row in rows[:SAMPLE] if isinstance(row.value, dict)]
    turns = [
        turn for some in lists if isinstance(some, list) and len(some) > 1 for turn in some if isinstance(turn, dict)
    ]
    keys = set(turns[0]).intersection(*turns) if turns else set[str]()
    said = any(isinstance(turns[0][key], str) for key in keys if names.plain_name(key) in names.TEXTS)
    return next((key for key in sorted(keys) if said and names.plain_name(key) in names.SPEAKER_IDS), None)


def _is_answer(name: str) -> bool:
    return names.rank(name, (*names.LABELS, *names.WRITTEN)) is not None


def _column(columns: Mapping[str, Column], name: str) -> Column | None:
    by_name = next((c for c in columns.values() if c.name == name), None)
    return columns.get(name) or columns.get(names.key_path(name)) or by_name


def _described(columns: Mapping[str, Column]) -> str:
    shown = [
        f"{c.path} ({len(c.values):,}{'+' if len(c.values) >= 5_000 else ''} values, {c.mean_words:.0f} words"
        + (f", in {c.filled:,} of {c.rows:,} rows)" if c.filled < c.rows else ")")
        for c in list(columns.values())[:12]
    ]
    return f"columns: {', '.join(shown) or 'none'}{', …' if len(columns) > 12 else ''}"


def _pair(rows: Sequence[RawRow], columns: Mapping[str, Column], text: str | None, answer: str | None) -> Choice | None:
    """The columns of text and answer; None if none look like it."""
    segments = _segments(rows, columns)
    useful = {
        p: c for p, c in columns.items() if not (c.is_rejected or (c.is_json and names.plain_name(c.name) in names.IDS))
    }
    texts = _texts(useful) or [
        c for c in useful.values() if c.kind == "object" and c.is_top and segments is None and len(c.values) > 1
    ]
    answers = _answers(rows, useful, texts, segments)
    if not answer:  # an object that holds the text is no answer to it, nor is what the text holds
        said = _column(columns, text) if text else texts[0] if texts else None
        pairs = [(c, f"{c.path}.", f"{said.path if said else ''}.") for c in answers]
        answers = [c for c, a, b in pairs if a == b or not (a.startswith(b) or b.startswith(a))]
    answer_column = _column(columns, answer) if answer else answers[0] if answers else None
    if answer_column is None:
        return None
    text_column = _column(columns, text) if text else next((c for c in texts if c.path != answer_column.path), None)
    if text_column is None and (segments is None or text):
        return None
    others = [c for c in texts if c.path not in (answer_column.path, text_column.path if text_column else "")]
    expression, used = (
        (segments or "", {segments or ""}) if text_column is None else _said(text_column, None if text else others)
    )
    written = not answer_column.is_label
    fields = {
        "prompt" if written else "text": expression,
        "completion" if written else "label": answer_column.expression,
    }
    contexts = [c for c in useful.values() if names.plain_name(c.name) in names.CONTEXTS and c.kind == "text"]
    asked_by = ("instruction",) if text else ("instruction", "question")
    beside = [c for c in (*others, *contexts) if c.path != answer_column.path]
    if text_column and (instruction := _instruction(text_column, beside, asked_by)):
        head, subject = instruction
        fields["text"] = _joined(head, subject)
        if written:
            fields = {"instruction": head.expression, "input": subject.expression, "output": answer_column.expression}
        used = {head.path, subject.path}
    asked = sorted({c.path for c in texts} & used - {answer_column.path}, key=list(columns).index)
    used |= {answer_column.path, KEY}
    if group := _group(columns):
        fields["group"] = group.path
        used.add(group.path)
    possible = [
        text_column.path if text_column else expression,
        *(c.path for c in texts if c.path != answer_column.path),
    ]
    return Choice(
        fields=fields,
        text=" and ".join(asked) or expression,
        answer=answer_column.path,
        texts=list(dict.fromkeys(possible)),
        answers=list(dict.fromkeys([answer_column.path, *(c.path for c in answers)])),
        unused=_unused(columns, used),
    )


def _unused(columns: Mapping[str, Column], used: set[str]) -> list[str]:
    """The keys of the rows that none of these expressions reads."""
    read = frozenset[str]().union(*(compile_expression(expression)[1] or () for expression in used))
    return [c.path for c in columns.values() if c.is_top and c.path not in used and c.name not in read]


def _texts(columns: Mapping[str, Column]) -> list[Column]:
    """Columns that may hold the user's text, likeliest first: by name, unless others hold much more text."""
    some = [c for c in columns.values() if c.is_text]
    longest = max((c.mean_words for c in some), default=0.0)
    written = {c.path for c in some if names.rank(c.name, names.WRITTEN) is not None}

    def order(c: Column) -> tuple[bool, bool, bool, int, float]:
        place = names.rank(c.name, names.TEXTS)
        telling = place is not None and c.mean_words >= min(3.0, 0.3 * longest)
        return (
            c.is_below(names.SAID),
            c.path in written and not telling,
            not telling,
            place or 0 if telling else 0,
            -c.mean_words,
        )

    return sorted(some, key=order)


def _answers(
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
    written = _ranked([c for c in usual if c.is_text or c.is_json or c.is_label or c.numeric], names.WRITTEN)
    unnamed, unpredictable = [c for c in labels if c not in named and c not in written], []
    if asked and not named and not written and (len(unnamed) > 1 or len(texts) > 1):
        gain = {c.path: _predictability(rows, asked, c.path) for c in unnamed}
        unpredictable = [c for c in unnamed if gain[c.path] <= _PREDICTABLE]
        unnamed = [c for c in unnamed if c not in unpredictable]
        unnamed.sort(key=lambda c: (-round(gain[c.path], 1), c.numeric))
    structured = [c for c in possible if c.is_json and c.is_top and c not in written]
    structured = [c for c in structured if f"{c.path}[]" not in (segments or "")]
    said = [c for c in texts[1:] if c.is_below(names.SAID) and c.name in ("text", "content")]
    second = [c for c in texts[1:] if c not in written]
    if len(texts) == 2 and not written:  # the first column asks, the second answers
        first, last = sorted(texts, key=lambda c: list(columns).index(c.path))
        second = [last] if asked == first.path else [first]
    found = {c.path: c for c in [*written, *named, *unnamed, *said, *structured, *second, *unpredictable]}
    asks = {path: c.is_below(names.ASKED) and not c.is_below(names.SAID) for path, c in found.items()}
    return sorted(found.values(), key=lambda c: (c.is_guess or c.is_decision, asks[c.path]))


def _ranked(columns: Sequence[Column], known: tuple[str, ...]) -> list[Column]:
    ranked = [(place, c) for c in columns if (place := names.rank(c.name, known)) is not None]
    return [c for _, c in sorted(ranked, key=lambda of: of[0])]


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


def _said(text: Column, others: Sequence[Column] | None) -> tuple[str, set[str]]:
    """(expression of the user's text, columns it reads): a subject or title is put above the text."""
    head = next((c for c in others or () if names.plain_name(c.name) in _HEADS and c.is_top), None)
    if head is None or names.plain_name(text.name) in _HEADS:
        return text.expression, {text.path}
    return _joined(head, text), {head.path, text.path}


def _joined(head: Column, text: Column) -> str:
    """The expression of two texts with a blank line between them. JMESPath knows line ends in JSON's notation alone."""
    return f'join(`"\\n\\n"`, [{head.path}, {text.path}][?@])'


def _instruction(text: Column, others: Sequence[Column], asked_by: Sequence[str]) -> tuple[Column, Column] | None:
    """(instruction, input) if both columns exist: a question and what it is about, too."""
    by_name = {names.plain_name(c.name): c for c in (*others, text)}
    asked = next((by_name[name] for name in asked_by if name in by_name), None)
    subject = next(
        (c for name in ("input", *names.CONTEXTS) if (c := by_name.get(name)) and 2 * c.filled > c.rows), None
    )
    return (asked, subject) if asked and subject else None


def _group(columns: Mapping[str, Column]) -> Column | None:
    """The column that groups rows: many values, some repeated."""
    for c in (c for c in columns.values() if names.plain_name(c.name) in names.GROUPS):
        if c.filled >= 0.9 * c.rows and c.kind in ("text", "number") and 20 <= len(c.values) < 0.95 * c.filled:
            return c
    return None


def _segments(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> str | None:
    """The expression that joins a list of text pieces in each row; None if there is no such list."""
    first = rows[0].value if isinstance(rows[0].value, dict) else {}
    for column in (c for c in columns.values() if c.kind == "list" and c.path != ELEMENT):
        pieces = first.get(column.name)
        texts = [p.get("text") if isinstance(p, dict) else None for p in pieces] if isinstance(pieces, list) else []
        if texts and all(isinstance(text, str) for text in texts):
            return f"join('', {column.path}[].text)"
    return None
