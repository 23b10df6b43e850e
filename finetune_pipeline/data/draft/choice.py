"""Chooses the columns that hold the user's text and the answer, in the terms of `data.fields`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from finetune_pipeline.data import names
from finetune_pipeline.data.draft import candidates
from finetune_pipeline.data.draft.columns import ELEMENT, KEY, SAMPLE, Column, columns_of, exploded
from finetune_pipeline.data.draft.conversations import Chat, chat_of, whole_chat, with_answer
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.draft.turns import numbered_turns, roles_of, single_messages, speaking_ids, transcript_of
from finetune_pipeline.data.fields import compile_expression


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
    segments = _segments(rows, columns) or ""
    flags = {c.path: flag for c in lists if (flag := _flag(rows, c.path))}
    for column in lists if not answer else ():
        if key := speaking_ids(rows, column.path):
            return f"{column.path} holds turns whose speakers are ids: {key}; put who speaks, customer or agent, into `role`"
    choice = _pair(rows, columns, text, answer)
    if not answer and (why := single_messages(columns, columns.get(choice.answer) if choice else None)):
        return why
    if choice and not text and (why := numbered_turns(columns, choice.texts[0])):
        return why
    by_name = choice and (answer or choice.answer not in columns or names.is_answer(columns[choice.answer].name))
    if choice and by_name and not flags:
        return choice
    for column in sorted(lists, key=lambda c: c.path not in flags):
        flag = flags.get(column.path)
        inner = [row for row in exploded(rows, column.path) if not (flag and row.value.get(flag))]
        own = columns_of(inner)
        pair = _pair(inner, own, text, answer) if len(inner) >= len(rows) / 2 else None
        known = pair and pair.answer in own and names.is_answer(own[pair.answer].name)
        in_pieces = f"{column.path}[]" in segments  # which are one text, unless the row has a label for each of them
        if pair and (known and pair.answer in columns if in_pieces else choice is None or flag or known):
            if not answer and (why := single_messages(own, own.get(pair.answer))):
                return why
            each = f"{column.path}[?!{flag}]" if flag else column.path
            return replace(pair, fields={"each": each, **pair.fields}, flag=(column.path, flag) if flag else None)
    if choice is not None:
        return choice
    if not (text or answer) and (found := transcript_of(columns)):
        transcript, speakers = found
        chat = Chat({}, roles_of(speakers), (transcript.path,), transcript=True)
        return Choice(chat=chat, unused=_unused(columns, {transcript.path}))
    return f"no two columns look like a text and its answer; {_described(columns)}"


def word_tags(rows: Sequence[RawRow]) -> tuple[str, str] | None:
    """The keys of a list of words and of a list with a tag, by name or number, for each of them, in every row."""
    values = [row.value for row in rows if isinstance(row.value, dict)]
    lists = [key for key, value in (values[0].items() if values else ()) if isinstance(value, list)]
    for words, tags in permutations(lists, 2):
        given: list[tuple[Any, Any]] = [(value.get(words), value.get(tags)) for value in values]
        if not all(isinstance(a, list) and isinstance(b, list) and len(a) == len(b) for a, b in given):
            continue
        pairs = [pair for a, b in given for pair in zip(a, b, strict=True)]
        plain = all(isinstance(a, str) and isinstance(b, str | int) for a, b in pairs)
        if plain and len({b for _, b in pairs}) < len({a for a, _ in pairs}):
            return words, tags
    return None


def _flag(rows: Sequence[RawRow], path: str) -> str | None:
    """The key that marks elements of a list as no answer, if they have one."""
    keys = frozenset[str]().union(*(row.value for row in exploded(rows[:SAMPLE], path)))
    return next((flag for flag in names.FLAGS if flag in keys), None)


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
    segments, choices = _segments(rows, columns), None if text else candidates.choices_of(rows, columns, answer)
    useful = _useful(columns, choices)
    texts = candidates.without_wholes(rows, candidates.texts_of(useful)) or [
        c for c in useful.values() if c.kind == "object" and c.is_top and segments is None and len(c.values) > 1
    ]
    said = _column(columns, text) if text else next(iter(texts), None)
    answers = candidates.answers_of(rows, useful, texts, segments)
    if not answer:
        answers = _apart(answers, said, [] if text else texts)
        answers = [choices.answer, *(c for c in answers if c is not choices.answer)] if choices else answers
    answer_column = _column(columns, answer) if answer else next(iter(answers), None)
    compared: list[str] = []
    if not answer and (better := candidates.better_of_two(useful)):
        answer_column, compared = better
        texts, answers = ([c for c in candidate if c.path not in compared] for candidate in (texts, answers))
    if answer_column is None:
        return None
    text_column = said if text else _asking(texts, answer_column, columns)
    if text_column is None and (segments is None or text):
        return None
    others = [c for c in texts if c.path not in (answer_column.path, text_column.path if text_column else "")]
    fields, expression, used = _fields(useful, text_column, answer_column, others, segments or "", bool(text))
    chosen = f"the better of {compared[0]} and {compared[1]}" if compared else answer_column.path
    if several := [] if answer else candidates.indicators(useful, answer_column):
        fields = {"text": expression, "label": candidates.labels_of(several)}
        used |= {c.path for c in several}
        chosen = ", ".join(c.path for c in several)
    if choices:
        fields = {"text": candidates.joined(expression, choices.expression), "label": answer_column.expression}
        used |= choices.paths
    asked = sorted({c.path for c in texts} & used - {answer_column.path}, key=list(columns).index)
    used |= {answer_column.path, KEY}
    if candidates.has_tools(rows):
        fields["tools"] = "tools"
        used.add("tools")
    if group := _group(columns):
        fields["group"] = group.path
        used.add(group.path)
    first, read = text_column.path if text_column else expression, " and ".join(asked) or expression
    text_paths = list(dict.fromkeys([first, *(c.path for c in texts if c.path != answer_column.path)]))
    answer_paths = list(dict.fromkeys([chosen, *(c.path for c in answers)]))
    return Choice(fields, read, chosen, text_paths, answer_paths, _unused(columns, used))


def _useful(columns: Mapping[str, Column], choices: candidates.Choices | None) -> dict[str, Column]:
    """The columns that may be text or answer: no rejected answers, no ids in JSON, no choices of a question."""
    taken = choices.paths if choices else frozenset[str]()

    def is_none(c: Column) -> bool:
        return c.is_rejected or (c.is_json and names.plain_name(c.name) in names.IDS) or bool(taken & {c.path, c.name})

    return {path: c for path, c in columns.items() if not is_none(c)}


def _apart(answers: Sequence[Column], said: Column | None, texts: Sequence[Column]) -> list[Column]:
    """The answers that neither hold the text nor lie within it, and are not compared with it."""
    text = f"{said.path if said else ''}."
    pairs = [(c, f"{c.path}.") for c in answers]
    asked_too = candidates.compared(texts[0], texts[1:]) if texts else []
    return [c for c, a in pairs if (a == text or not (a.startswith(text) or text.startswith(a))) and c not in asked_too]


def _asking(texts: Sequence[Column], answer: Column, columns: Mapping[str, Column]) -> Column | None:
    """The likeliest text beside the answer; of columns without known names, one of which is the answer, the first."""
    rest = [c for c in texts if c.path != answer.path]
    known = any(names.rank(c.name, (*names.TEXTS, *names.WRITTEN)) is not None for c in texts)
    if answer in texts and not known:
        rest.sort(key=lambda c: list(columns).index(c.path))
    return next(iter(rest), None)


def _fields(
    useful: Mapping[str, Column],
    text: Column | None,
    answer: Column,
    others: Sequence[Column],
    segments: str,
    alone: bool,
) -> tuple[dict[str, str], str, set[str]]:
    """(data.fields, the expression of what is asked, columns read) of a text, or of a list of pieces of it, and its answer. others:
    further columns of text; none is put beside a text that somebody named (`alone`), but what an instruction is about."""
    written = not answer.is_label
    if text is None:
        expression, used = segments, {segments}
    else:
        expression, used = candidates.asked_text(text, None if alone else others)
        contexts = [c for c in useful.values() if names.plain_name(c.name) in names.CONTEXTS and c.kind == "text"]
        beside = [c for c in (*others, *contexts) if c.path != answer.path]
        asks = ("instruction",) if alone else ("instruction", "question")
        if both := candidates.instruction(text, beside, asks):
            expression, used = candidates.joined(*(c.path for c in both)), {c.path for c in both}
            if written:
                of = zip(("instruction", "input", "output"), (*both, answer), strict=True)
                return {name: column.expression for name, column in of}, expression, used
    names_of = ("prompt", "completion") if written else ("text", "label")
    return dict(zip(names_of, (expression, answer.expression), strict=True)), expression, used


def _unused(columns: Mapping[str, Column], used: set[str]) -> list[str]:
    """The keys of the rows that none of these expressions reads."""
    read = frozenset[str]().union(*(compile_expression(expression)[1] or () for expression in used))
    return [c.path for c in columns.values() if c.is_top and c.path not in used and c.name not in read]


def _group(columns: Mapping[str, Column]) -> Column | None:
    """The column that groups rows: many values, some repeated."""
    for c in (c for c in columns.values() if names.plain_name(c.name) in names.GROUPS):
        if c.filled >= 0.9 * c.rows and c.kind in ("text", "number") and 20 <= len(c.values) < 0.95 * c.filled:
            return c
    return None


def _segments(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> str | None:
    """The expression that joins a list of text pieces in each row; None if there is no such list."""
    values = [row.value for row in rows if isinstance(row.value, dict)]
    for column in (c for c in columns.values() if c.kind == "list" and c.path != ELEMENT):
        pieces = next(filter(None, (value.get(column.name) for value in values)), None)
        texts = [p.get("text") if isinstance(p, dict) else None for p in pieces] if isinstance(pieces, list) else []
        if texts and all(isinstance(text, str) for text in texts):
            return f"join('', {column.path}[].text)"
    return None
