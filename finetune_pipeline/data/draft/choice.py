"""Chooses the columns that hold the user's text and the answer, in the terms of `data.fields`."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, permutations
from typing import Any

from finetune_pipeline.data import names
from finetune_pipeline.data.draft import candidates
from finetune_pipeline.data.draft.cell_types import json_reading
from finetune_pipeline.data.draft.column_scores import ColumnScore, ColumnScorer, best_first
from finetune_pipeline.data.draft.columns import ELEMENT, KEY, MOST_VALUES, SAMPLE, Column, Refusal, columns_of
from finetune_pipeline.data.draft.conversations import (
    Chat,
    chat_of,
    numbered_turns,
    single_messages,
    turns_in_elements,
    whole_chat,
)
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.findings import listed

_ROWS_TO_CHOOSE_BY = 5_000
_MOST_SCORED = 12
"""Columns of labels that are scored."""


@dataclass(frozen=True)
class Choice:
    """How rows are mapped.

    Attributes:
        fields: For `data.fields`; empty if a registered format reads the rows as they are.
        text, answer: The chosen columns.
        texts, answers: All candidate columns, the chosen one first.
        composed: Of texts and answers those that are no column: several columns, or the pieces of a text.
        unused: Columns that nothing reads.
        chat: The turns, if the rows are conversations.
        scores: Of the columns that may hold labels, if there are several, the chosen one first.
        notes: What a person should know of how the cells are read.
    """

    fields: dict[str, str] = field(default_factory=dict)
    text: str = ""
    answer: str = ""
    texts: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    composed: frozenset[str] = frozenset()
    unused: list[str] = field(default_factory=list)
    chat: Chat | None = None
    scores: list[ColumnScore] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def choose(all_rows: Sequence[RawRow], text: str | None = None, answers: Sequence[str] = ()) -> Choice | Refusal:
    """Choose the columns with the user's text and the answer, or take the named ones. Several answers become one JSON object.
    Returns the reason if there are none."""
    rows = all_rows[:: max(1, len(all_rows) // _ROWS_TO_CHOOSE_BY)]
    answer = next(iter(answers), None)
    if not (text or answer) and (chat := whole_chat(rows)):
        keys = dict.fromkeys(key for row in rows if isinstance(row.value, dict) for key in row.value)
        return Choice(chat=chat, unused=[names.key_path(key) for key in keys if key not in chat.columns])
    columns = columns_of(rows)
    answers = [part for name in answers for part in _named_columns(columns, name)]
    answer = next(iter(answers), None)
    if unknown := [name for name in (text, *answers) if name and _find_column(columns, name) is None]:
        return _refusal(f"there is no column {', '.join(map(repr, unknown))}", columns)
    if text and text in answers:
        return _refusal(f"the column {text!r} cannot be both the text and its answer", columns)
    if len(answers) > 1:
        found = [c for name in answers if (c := _find_column(columns, name))]
        return _choose_object(rows, columns, text, found, all_rows)
    conversation = None if text or answer else chat_of(rows, columns)
    if isinstance(conversation, Refusal):
        return conversation
    if conversation:
        used = [*conversation.columns, *conversation.fields.values()]
        return Choice(conversation.fields, chat=conversation, unused=_unused(columns, used))
    choice = _choose_pair(rows, columns, text, answer)
    if isinstance(choice, Refusal):
        return choice
    if not answer and (refusal := single_messages(columns, columns.get(choice.answer) if choice else None)):
        return refusal
    if choice and not text and (refusal := numbered_turns(columns, choice.texts[0])):
        return refusal
    if choice and not text and (column := columns.get(choice.texts[0])) and column.kind == "text" and column.is_json:
        refusal = _refusal(f"{column.path} holds JSON as text", columns)
        return replace(refusal, fix=f"{refusal.fix}; --text {column.path} keeps the JSON")
    if choice and (answer or choice.answer not in columns or names.is_answer(columns[choice.answer].name)):
        return choice
    in_elements = _choose_in_elements(rows, columns, text, answer, choice)
    return in_elements or choice or _refusal("no two columns look like a text and its answer", columns)


def _choose_object(
    rows: Sequence[RawRow],
    columns: Mapping[str, Column],
    text: str | None,
    answers: Sequence[Column],
    all_rows: Sequence[RawRow],
) -> Choice | Refusal:
    """Choose the column of the text beside an answer that is a JSON object of several columns, whose cells are typed by all
    rows."""
    first, *others = answers
    choice = _choose_pair(rows, {p: c for p, c in columns.items() if c not in others}, text, first.path)
    if not isinstance(choice, Choice):
        return choice or _refusal("no column looks like the text; name it with --text", columns)
    unique_names = Counter(c.name for c in answers)
    keys = [names.key_path(c.name if unique_names[c.name] == 1 else c.path) for c in answers]
    expressions, notes = zip(*(json_reading(column, all_rows) for column in answers), strict=True)
    pairs = (f"{key}: {expression}" for key, expression in zip(keys, expressions, strict=True))
    expression = f"to_string({{{', '.join(pairs)}}})"
    fields = {{"text": "prompt", "label": "completion"}.get(name, name): path for name, path in choice.fields.items()}
    fields["output" if "output" in fields else "completion"] = expression
    named = ", ".join(c.path for c in answers)
    unused = _unused(columns, [*fields.values(), KEY])
    composed = choice.composed | {named}
    read = replace(choice, fields=fields, answer=named, answers=[named], composed=composed, unused=unused)
    return replace(read, notes=[note for note in notes if note])


def _choose_in_elements(
    rows: Sequence[RawRow], columns: Mapping[str, Column], text: str | None, answer: str | None, choice: Choice | None
) -> Choice | Refusal | None:
    """Choose the columns of text and answer among the elements of a list, if they fit better than the row's own `choice`."""
    segments = _segments(rows, columns) or ""
    for column in (
        c for c in columns.values() if c.kind == "list" and c.is_top and not c.is_guess and c.path[0] != "["
    ):
        element_rows = exploded(rows, column.path)
        if len(element_rows) < len(rows) / 2:
            continue
        element_columns = columns_of(element_rows)
        pair = _choose_pair(element_rows, element_columns, text, answer)
        if not isinstance(pair, Choice):
            continue
        is_named = pair.answer in element_columns and names.is_answer(element_columns[pair.answer].name)
        is_better = choice is None or is_named
        if f"{column.path}[]" in segments:  # pieces of one text, unless the row has a label for each of them
            is_better = is_named and pair.answer in columns
        if not is_better:
            continue
        own_keys = {str(key) for row in rows[:SAMPLE] if isinstance(row.value, dict) for key in row.value}
        if refusal := turns_in_elements(column, [c.name for c in element_columns.values() if c.name not in own_keys]):
            return refusal
        if not answer and (refusal := single_messages(element_columns, element_columns.get(pair.answer))):
            return refusal
        if not answer and pair.texts[0] in columns and pair.answer not in columns:
            refusal = _refusal(f"{column.path} holds several answers to each {pair.texts[0]}", columns)
            fields = {"prompt": pair.texts[0], "completion": f"{column.path}[0].{pair.answer}"}
            is_label = element_columns[pair.answer].is_label
            fix = f"to learn the first, write task.yaml with {names.declare(fields, expressions=fields)}"
            return refusal if is_label else replace(refusal, fix=fix)
        return replace(pair, fields={"each": column.path, **pair.fields})
    return None


def _refusal(message: str, columns: Mapping[str, Column]) -> Refusal:
    """Name the columns, and the line of task.yaml that maps the two likeliest."""
    paths = [c.path for c in sorted(columns.values(), key=lambda c: (not c.is_text, -c.mean_words)) if c.path != KEY]
    fix = "name them with --text COLUMN --answer COLUMN"
    if len(paths) > 1:
        fields = dict(zip(("prompt", "completion"), paths, strict=False))
        fix += f", or write task.yaml with {names.declare(fields, expressions=fields)}, or others of these columns"
    if packed := [c.path for c in columns.values() if c.kind == "text" and c.is_json]:
        fix += f"; `from_json({packed[0]}).KEY` in data.fields reads what the JSON in {packed[0]} holds"
    return Refusal(f"{message}; {_describe_columns(columns)}", fix)


def exploded(rows: Sequence[RawRow], name: str) -> list[RawRow]:
    """Return the rows that `data.fields.each` makes: one for each element of a list, with the row's other keys."""
    element_rows = []
    for row in rows:
        outer = dict(row.value) if isinstance(row.value, dict) else {}
        elements = outer.pop(name, None)
        for element in elements if isinstance(elements, list) else ():
            element_fields = element if isinstance(element, dict) else {ELEMENT: element}
            element_rows.append(RawRow(row.key, {**outer, **element_fields}))
    return element_rows


def word_tags(rows: Sequence[RawRow]) -> tuple[str, str] | None:
    """Return the keys of two equally long lists in every row: words, and a tag (name or number) for each word."""
    values = [row.value for row in rows if isinstance(row.value, dict)]
    lists = [key for key, value in (values[0].items() if values else ()) if isinstance(value, list)]
    for words, tags in permutations(lists, 2):
        list_pairs: list[tuple[Any, Any]] = [(value.get(words), value.get(tags)) for value in values]
        if not all(isinstance(a, list) and isinstance(b, list) and len(a) == len(b) for a, b in list_pairs):
            continue
        pairs = [pair for a, b in list_pairs for pair in zip(a, b, strict=True)]
        are_tagged = all(isinstance(word, str) and isinstance(tag, str | int) for word, tag in pairs)
        if are_tagged and len({tag for _, tag in pairs}) < len({word for word, _ in pairs}):
            return words, tags
    return None


def _find_column(columns: Mapping[str, Column], name: str) -> Column | None:
    """Find a column by its path, as an expression or as a key, else by its name."""
    column = columns.get(name) or columns.get(names.key_path(name))
    return column or next((c for c in columns.values() if c.name == name), None)


def _named_columns(columns: Mapping[str, Column], name: str) -> list[str]:
    """Return the columns that a name stands for: one, or several with commas between them."""
    parts = [part.strip() for part in name.split(",")]
    return (
        parts if _find_column(columns, name) is None and all(_find_column(columns, part) for part in parts) else [name]
    )


def _describe_columns(columns: Mapping[str, Column]) -> str:
    descriptions = [
        f"{c.path} ({len(c.values):,}{'+' if len(c.values) >= MOST_VALUES else ''} values, {c.mean_words:.0f} words"
        + (f", in {c.filled:,} of {c.rows:,} rows)" if c.filled < c.rows else ")")
        for c in columns.values()
    ]
    return f"columns: {listed(descriptions) or 'none'}"


def _choose_pair(
    rows: Sequence[RawRow], columns: Mapping[str, Column], text: str | None, answer: str | None
) -> Choice | Refusal | None:
    """Choose the columns of text and answer; None if no columns look like them."""
    segments, choices = _segments(rows, columns), None if text else candidates.choices_of(rows, columns, answer)
    choice_paths = choices.paths if choices else frozenset[str]()
    useful = {p: c for p, c in columns.items() if not c.is_rejected and choice_paths.isdisjoint((p, c.name))}
    useful = {p: c for p, c in useful.items() if not (c.is_json and names.plain_name(c.name) in names.IDS)}
    texts = candidates.without_combined_texts(rows, candidates.texts_of(useful)) or [
        c for c in useful.values() if c.kind == "object" and c.is_top and segments is None and len(c.values) > 1
    ]
    likely_text = _find_column(columns, text) if text else next(iter(texts), None)
    scorer = _scorer(rows, likely_text, None if text else texts)
    answers, scores = candidates.answers_of(useful, texts, segments, scorer), []
    if not answer:
        answers = _outside_text(answers, likely_text, [] if text else texts)
        answers = [choices.answer, *(c for c in answers if c is not choices.answer)] if choices else answers
        labels = [c for c in answers if c.is_label and not (c.is_guess or c.is_decision)][:_MOST_SCORED]
        if scorer and not choices and len(labels) > 1 and answers[0] in labels:
            labels = best_first(labels, scorer)
            answers = [*labels, *(c for c in answers if c not in labels)]
            scores = [score for c in labels if (score := scorer.score(c))]
    answer_column = _find_column(columns, answer) if answer else next(iter(answers), None)
    if answer_column is None:
        return None
    if not answer and (rival := candidates.rival_of(answer_column, useful)):
        message = f"{answer_column.path} and {rival.path} are two answers to one text; put the better one into a column"
        return _refusal(message, columns)
    text_column = likely_text if text else _text_beside(texts, answer_column, columns)
    if text_column is None and (segments is None or text):
        return None
    if not answer and text_column and text_column.kind == "object" and not answer_column.is_label:
        return None
    other_texts = [c for c in texts if c.path not in (answer_column.path, text_column.path if text_column else "")]
    fields, expression, used = _fields(useful, text_column, answer_column, other_texts, segments or "", bool(text))
    answer_names = answer_column.path
    if label_columns := [] if answer else candidates.indicators(useful, answer_column):
        fields = {"text": expression, "label": candidates.labels_of(label_columns)}
        answer_names = ", ".join(c.path for c in label_columns)
    if choices:
        fields = {"text": candidates.joined(expression, choices.expression), "label": answer_column.expression}
    paths_read = sorted({c.path for c in texts} & used - {answer_column.path}, key=list(columns).index)
    if candidates.has_tools(rows):
        fields["tools"] = "tools"
    if (group := _group(columns)) and group is not answer_column:
        fields["group"] = group.path
    first_text, text_names = text_column.path if text_column else expression, " and ".join(paths_read) or expression
    text_paths = list(dict.fromkeys([first_text, *(c.path for c in texts if c.path != answer_column.path)]))
    answer_paths = list(dict.fromkeys([answer_names, *(c.path for c in answers)]))
    composed, unused = frozenset({first_text, answer_names} - columns.keys()), _unused(columns, [*fields.values(), KEY])
    return Choice(fields, text_names, answer_names, text_paths, answer_paths, composed, unused, scores=scores)


def _scorer(rows: Sequence[RawRow], text: Column | None, texts: Sequence[Column] | None) -> ColumnScorer | None:
    """Return what scores columns against the text; None if no column holds it. texts: others that may be joined to it."""
    return ColumnScorer(rows, candidates.user_text_expression(text, texts)[0]) if text else None


def _outside_text(answers: Sequence[Column], text_column: Column | None, texts: Sequence[Column]) -> list[Column]:
    """Return the answers that neither contain the text nor lie inside it, and are not compared with it."""
    text = f"{text_column.path if text_column else ''}."
    compared = candidates.compared(texts[0], texts[1:]) if texts else []

    def overlaps(path: str) -> bool:
        return path != text and (path.startswith(text) or text.startswith(path))

    return [c for c in answers if not overlaps(f"{c.path}.") and c not in compared]


def _text_beside(texts: Sequence[Column], answer: Column, columns: Mapping[str, Column]) -> Column | None:
    """Return the likeliest text besides the answer. If the answer is one of several texts without known names, take the first
    column."""
    other_texts = [c for c in texts if c.path != answer.path]
    has_known_names = any(names.rank(c.name, (*names.TEXTS, *names.WRITTEN)) is not None for c in texts)
    if answer in texts and not has_known_names:
        other_texts.sort(key=lambda c: list(columns).index(c.path))
    return next(iter(other_texts), None)


def _fields(
    useful: Mapping[str, Column],
    text: Column | None,
    answer: Column,
    other_texts: Sequence[Column],
    segments: str,
    text_is_named: bool,
) -> tuple[dict[str, str], str, set[str]]:
    """Return (data.fields, expression of the user's text, columns read) of a text, or of a list of its pieces, and its answer.
    `other_texts` may be joined to the text. A text that the user named (`text_is_named`) only gets an instruction's input."""
    written = not answer.is_label
    if text is None:
        expression, used = segments, {segments}
    else:
        expression, used = candidates.user_text_expression(text, None if text_is_named else other_texts)
        contexts = [c for c in useful.values() if names.plain_name(c.name) in names.CONTEXTS and c.kind == "text"]
        beside = [c for c in (*other_texts, *contexts) if c.path != answer.path]
        request_names = ("instruction",) if text_is_named else ("instruction", "question")
        if pair := candidates.instruction(text, beside, request_names):
            expression, used = candidates.joined(*(c.path for c in pair)), {c.path for c in pair}
            if written:
                named_columns = zip(("instruction", "input", "output"), (*pair, answer), strict=True)
                return {name: column.expression for name, column in named_columns}, expression, used
    field_names = ("prompt", "completion") if written else ("text", "label")
    return dict(zip(field_names, (expression, answer.expression), strict=True)), expression, used


def _unused(columns: Mapping[str, Column], used: Collection[str]) -> list[str]:
    """Return the keys of the rows that none of these expressions reads."""
    read = keys_read(used)
    return [c.path for c in columns.values() if c.is_top and c.path not in used and c.name not in read]


def keys_read(expressions: Iterable[str]) -> frozenset[str]:
    """Return the keys of the rows that these expressions read."""
    return frozenset[str]().union(*(compile_expression(expression)[1] or () for expression in expressions))


def _group(columns: Mapping[str, Column]) -> Column | None:
    """Return the column that groups rows: many values, some repeated."""
    filled = [c for c in columns.values() if c.filled >= 0.9 * c.rows and c.kind in ("text", "number")]
    groups = (c for c in filled if names.plain_name(c.name) in names.GROUPS)
    return next((c for c in groups if 20 <= len(c.values) < 0.95 * c.filled), None)


def _segments(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> str | None:
    """Return the expression that joins a list of text pieces in each row; None if there is no such list.

    Pieces of a text meet at blanks or punctuation. Elements that do not are texts of their own, such as several questions.
    """
    values = [row.value for row in rows if isinstance(row.value, dict)]
    for column in (c for c in columns.values() if c.kind == "list" and c.path != ELEMENT):
        pieces = next(filter(None, (value.get(column.name) for value in values)), None)
        texts = [p.get("text") if isinstance(p, dict) else None for p in pieces] if isinstance(pieces, list) else []
        if texts and all(isinstance(text, str) for text in texts) and _are_pieces(values, column.name):
            return f"join('', {column.path}[].text)"
    return None


def _are_pieces(values: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether the texts in a list are pieces of one text: most of their seams have a blank or punctuation, or many are short."""
    lists = [value[name] for value in values if isinstance(value.get(name), list)]
    texts = [[str(p.get("text")) if isinstance(p, dict) else "" for p in pieces] for pieces in lists]
    seams = [a[-1:] + b[:1] for pieces in texts for a, b in pairwise(pieces)]
    short = [len(text.split()) < 3 for pieces in texts if len(pieces) > 1 for text in pieces]
    if sum(short) > 0.3 * len(short):
        return True
    return 2 * sum(not seam.isalnum() and not (seam[:1] in ".?!" and seam[1:].isalnum()) for seam in seams) >= len(
        seams
    )
