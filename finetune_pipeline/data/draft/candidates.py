"""Finds the columns that may hold the user's text or the answer, likeliest first. Labels may have a column each. The user's text
may be in several: a subject and a body, an instruction and its input, two texts to compare, a question and its choices."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.column_scores import PREDICTABLE, ColumnScorer
from finetune_pipeline.data.draft.columns import KEY, SAMPLE, Column, as_text, leaves
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.fields import compile_expression
from finetune_pipeline.data.formats.tool_calls import read_tools

_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false")
_SETTLED = frozenset(("final", "gold", "majority", "adjudicated"))
"""Words in names of labels that several annotators agree on."""
_LEAST_INDICATORS = 3
"""Fewer yes-or-no columns than this are more likely separate labels."""
_HEADINGS = ("subject", "title", "headline", "betreff", "summary")
_COMPARED = (("premise", "hypothesis"), ("claim", "evidence"), ("text_a", "text_b"))
_SUBJECTS = ("input", *names.CONTEXTS, "schema", "sentence", "document", "article", "story")
"""Names of columns that a question or an instruction can be about."""
_CHOICES = ("choices", "options", "endings", "alternatives")
_CHOICE = re.compile(r"[a-e]|(option|opt|choice|op|ending|sol)_?([a-e]|[0-5])")
_LETTERS = "ABCDEFGHIJ"
_SIDES = (("a", "b"), ("A", "B"), ("1", "2"), ("0", "1"))
"""Ends of the names of two answers to compare."""


def texts_of(columns: Mapping[str, Column]) -> list[Column]:
    """Return the columns that may hold the user's text, likeliest first: by name, unless others hold much more text."""
    texts = [c for c in columns.values() if c.is_text]
    longest = max((c.mean_words for c in texts), default=0.0)
    written = {c.path for c in texts if names.rank(c.name, names.WRITTEN) is not None}
    replies = _replies(texts)

    def order(c: Column) -> tuple[bool, bool, bool, int, float]:
        rank = names.rank(c.name, names.TEXTS)
        is_named = rank is not None and c.mean_words >= (longest if c.path in written else min(3.0, 0.3 * longest))
        is_reply, is_answer = c.is_below(names.SAID) or c in replies, c.path in written and not is_named
        return is_reply, is_answer, not is_named, (rank or 0) if is_named else 0, -c.mean_words

    return sorted(texts, key=order)


def _replies(texts: Sequence[Column]) -> list[Column]:
    """Return the texts named after an assistant, if others are named after a user: `agent_text` beside `customer_text`."""
    has_user_text = any(names.rank(c.name, names.USERS) is not None for c in texts)
    return [c for c in texts if has_user_text and names.rank(c.name, names.ASSISTANTS) is not None]


def answers_of(
    columns: Mapping[str, Column], texts: Sequence[Column], segments: str | None, scorer: ColumnScorer | None
) -> list[Column]:
    """Return the columns that may hold the answer, likeliest first. Constant columns and lists of one element do not count."""
    possible = [c for p, c in columns.items() if len(c.values) > 1 and not {f"{p}[0]", f"{p}[].name"} & columns.keys()]
    possible = [c for c in possible if names.plain_name(c.name) not in names.CONTEXTS]
    texts = [c for c in texts if c is texts[0] or names.plain_name(c.name) not in names.CONTEXTS]
    labels = [c for c in possible if c.is_label]
    text_path = texts[0].path if texts else ""
    named = _ranked([c for c in labels if c.path != KEY], names.LABELS)
    named += [c for c in possible if c.path.endswith("[].name") and c.path.replace("[]", "[0]") not in columns]
    # written answers with known names come before labels: a question's category is beside its answer
    answers = [c for c in possible if names.rank(c.name, names.WRITTEN) is not None and c.path != text_path]
    answers = [c for c in answers if c.filled >= 0.5 * c.rows and not c.is_id and c not in named]
    answers = [c for c in answers if not text_path.startswith(f"{c.path}.")]  # what contains the text is no answer
    answers = [c for c in answers if c.is_text or c.is_json or c.is_label or c.numeric]
    written = _ranked(answers, names.WRITTEN)
    unnamed, unpredictable = [c for c in labels if c not in named and c not in written], []
    if scorer and not named and not written and (len(unnamed) > 1 or len(texts) > 1 or any(c.numeric for c in unnamed)):
        gains = {c.path: scorer.gain(c) for c in unnamed}
        unpredictable = [c for c in unnamed if gains[c.path] <= PREDICTABLE or (c.is_reference and len(texts) > 1)]
        unnamed = [c for c in unnamed if c not in unpredictable]
        unpredictable = [c for c in unpredictable if not c.numeric]  # amounts
        unnamed.sort(key=lambda c: (-round(gains[c.path], 1), c.numeric))
    structured = [c for c in possible if c.is_json and c.is_top and c not in written and not c.is_record]
    structured = [c for c in structured if f"{c.path}[]" not in (segments or "")]
    replies = [c for c in texts[1:] if c.is_below(names.SAID) and c.name in ("text", "content")] + _replies(texts)
    other_texts = [c for c in texts[1:] if c not in written]
    declared = [c for c in possible if names.plain_name(c.name) in ("label", "labels") and 2 * c.filled > c.rows]
    declared = [c for c in declared if c.is_top and c.kind in ("text", "number", "bool")]
    if declared and not written:  # the answer is there, even if it looks like no label, and not in another text
        named, other_texts = [*named, *(c for c in declared if c not in named)], []
    has_no_known_names = all(names.rank(c.name, names.TEXTS) is None for c in texts)
    # of two texts the first column asks, the second answers
    if len(texts) > 1 and not written and not declared and (has_no_known_names or len(texts) == 2):
        earlier, later = sorted(texts, key=lambda c: list(columns).index(c.path))[:2]
        other_texts = [later] if text_path == earlier.path or has_no_known_names else [earlier]
    candidates = {c.path: c for c in [*written, *named, *unnamed, *replies, *structured, *other_texts, *unpredictable]}
    is_request = {path: c.is_below(names.ASKED) and not c.is_below(names.SAID) for path, c in candidates.items()}
    return sorted(candidates.values(), key=lambda c: (c.is_guess or c.is_decision, is_request[c.path]))


def _ranked(columns: Sequence[Column], known_names: tuple[str, ...]) -> list[Column]:
    ranked = [(rank, c) for c in columns if (rank := names.rank(c.name, known_names)) is not None]
    settled_paths = {c.path for _, c in ranked if not _SETTLED.isdisjoint(names.plain_name(c.name).split("_"))}
    return [c for _, c in sorted(ranked, key=lambda pair: (pair[0], pair[1].path not in settled_paths))]


def indicators(columns: Mapping[str, Column], answer: Column) -> list[Column]:
    """Return the yes-or-no columns, one per label, that `answer` is one of; none if they are few, or if one of
    them is named like a label of its own."""
    siblings = [c for c in columns.values() if c.path.rpartition(".")[0] == answer.path.rpartition(".")[0]]
    siblings = [c for c in siblings if c.filled == c.rows and "'" not in c.name and len(c.values) == 2]
    siblings = [c for c in siblings if {value.casefold() for value in c.values} <= {*_YES, *_NO}]
    known = [s.name for s in siblings if names.plain_name(s.name) in names.LABELS]
    is_single = any(not any(f"_{name}" in c.name for c in siblings) for name in known)
    return siblings if len(siblings) >= _LEAST_INDICATORS and answer in siblings and not is_single else []


def labels_of(columns: list[Column]) -> str:
    """Return the expression that gives the names of the columns that say yes, or `none`."""
    conditions = []
    for column in columns:
        true_value = next((value for value in column.values if value.casefold() in _YES), "1")
        value = f"'{true_value}'" if column.kind == "text" else f"`{json.dumps(json.loads(true_value))}`"
        conditions.append(f"{column.path} == {value} && '{column.name}'")
    return f"join(', ', [{', '.join(conditions)}][?@]) || 'none'"


def rival_of(answer: Column, columns: Mapping[str, Column]) -> Column | None:
    """Return another answer to the same text, of which one is better: `response_b` of `response_a`; None if there is none."""
    for first, second in (pair for a, b in _SIDES for pair in ((a, b), (b, a))):
        rival = columns.get(f"{answer.path.removesuffix(first)}{second}")
        if answer.is_text and answer.path.endswith(f"_{first}") and rival and rival.is_text:
            return rival
    return None


def user_text_expression(text: Column, other_texts: Sequence[Column] | None) -> tuple[str, set[str]]:
    """Return (expression of the user's text, columns it reads). A subject or title goes above the text; two texts to compare
    come in the order of their names."""
    if pair := compared(text, other_texts or ()):
        return joined(*(c.path for c in pair)), {c.path for c in pair}
    top_texts = [c for c in other_texts or () if c.is_top]
    heading = next((c for c in top_texts if names.plain_name(c.name) in _HEADINGS), None)
    if heading is None or names.plain_name(text.name) in _HEADINGS:
        return text.expression, {text.path}
    return joined(heading.path, text.path), {heading.path, text.path}


def joined(*texts: str) -> str:
    """Return the expression that joins texts with a blank line. JMESPath accepts line ends only as JSON literals."""
    return f'join(`"\\n\\n"`, [{", ".join(texts)}][?@])'


def compared(text: Column, other_texts: Sequence[Column]) -> list[Column]:
    """Return the two texts to compare, such as `sentence1` and `sentence2`, in order; empty if there is no second."""
    for candidate in other_texts:
        first, second = both_texts = sorted((text, candidate), key=lambda c: names.plain_name(c.name))
        plain = [names.plain_name(c.name) for c in both_texts]
        if known_pair := next((pair for pair in _COMPARED if {*pair} == {*plain}), None):
            return sorted(both_texts, key=lambda c: known_pair.index(names.plain_name(c.name)))
        is_numbered = "1" in plain[0] and "2" in plain[1] and len(plain[0]) > 2  # c1 is a column without a name
        if is_numbered and plain[0].replace("1", "#") == plain[1].replace("2", "#"):
            return [first, second]
    return []


def instruction(text: Column, columns: Sequence[Column], request_names: Sequence[str]) -> tuple[Column, Column] | None:
    """Return (instruction, input) if both columns exist; a question and its context count too."""
    by_name = {names.plain_name(c.name): c for c in (*columns, text)}
    request = next((by_name[name] for name in request_names if name in by_name), None)
    subject = next((c for name in _SUBJECTS if (c := by_name.get(name)) and 2 * c.filled > c.rows), None)
    return (request, subject) if request and subject and request is not subject else None


def without_combined_texts(rows: Sequence[RawRow], texts: Sequence[Column]) -> list[Column]:
    """Return the columns except those that combine others, as Alpaca's `text` combines request and answer."""
    row_values = [{path: as_text(value) for path, _, value in leaves(row.value)} for row in rows[:50]]

    def is_combined(combined: Column) -> bool:
        part_count, part_words = 0, 0.0
        for part in (c for c in texts if c is not combined and c.mean_words < combined.mean_words):
            filled = (row for row in row_values if row.get(part.path) and row.get(combined.path))
            pairs = [(row[combined.path], row[part.path]) for row in filled]
            if len(pairs) > 1 and all(part_text in whole_text for whole_text, part_text in pairs):
                part_count, part_words = part_count + 1, part_words + part.mean_words
        return part_count > 1 and part_words >= combined.mean_words / 2

    return [c for c in texts if not is_combined(c)]


def has_tools(rows: Sequence[RawRow]) -> bool:
    """Whether every row has tools that a model may call."""
    lists = [row.value.get("tools") if isinstance(row.value, dict) else None for row in rows[:SAMPLE]]
    problems: list[str] = []
    return all(read_tools(tools, lambda rule, *_: problems.append(rule)) for tools in lists) and not problems


@dataclass(frozen=True)
class Choices:
    """The choices of a multiple-choice question. expression: gives them one a line, each with its mark. answer: the column with
    the mark of the correct one. paths: the columns read."""

    expression: str
    answer: Column
    paths: frozenset[str]


def choices_of(rows: Sequence[RawRow], columns: Mapping[str, Column], answer_name: str | None = None) -> Choices | None:
    """Return the choices of multiple-choice questions, from a list or from one column each. None if there are none, or if no
    column gives the letter or number of the correct one."""
    texts, first_row, paths = _choices_in(rows, columns)
    if not 2 <= len(texts) <= len(_LETTERS):
        return None
    for marks in (_LETTERS, "0123456789", "123456789"):
        allowed = {*marks[: len(texts)]}
        answers = [c for p, c in columns.items() if p not in paths and len(c.values) > 1 and c.values.keys() <= allowed]
        answers = [c for c in answers if answer_name in (None, c.name, c.path)]
        if answers:
            answer = min(answers, key=lambda c: not names.is_answer(c.name))
            if not all(text.lstrip("( ").startswith(mark) for text, mark in zip(first_row, marks, strict=False)):
                texts = [f"{t} && join('. ', ['{m}', {t}])" for t, m in zip(texts, marks, strict=False)]
            return Choices(f'join(`"\\n"`, [{", ".join(texts)}][?@])', answer, paths)
    return None


def _choices_in(rows: Sequence[RawRow], columns: Mapping[str, Column]) -> tuple[list[str], list[str], frozenset[str]]:
    """Return (expressions of the choices, their texts in one row, their columns). Choices are in a list of texts or of objects
    with a `text`; in one column each, by name; or, as in MMLU without a header, between the question and a letter."""
    for column in columns.values():
        if column.kind != "list" or not any(names.plain_name(part) in _CHOICES for part in column.path.split(".")):
            continue
        getter = compile_expression(column.path)[0]
        values = [getter(row.value, "", None) for row in rows[:SAMPLE] if isinstance(row.value, dict)]
        lists = [items for items in values if isinstance(items, list)]
        below = ".text" if all(isinstance(item, dict) and "text" in item for items in lists for item in items) else ""
        first = [item["text"] if below else item for item in max(lists, key=len, default=[])]
        if all(isinstance(item, str) for item in first):
            texts = [f"{column.path}[{i}]{below}" for i in range(len(first))]
            return texts, first, frozenset((column.path, column.path.split(".")[0]))
    choices = [c for c in columns.values() if c.kind == "text" and _CHOICE.fullmatch(names.plain_name(c.name))]
    is_headerless = len(columns) > 4 and all(re.fullmatch(r"c\d+", path) for path in columns)
    if is_headerless and not choices:
        _, *between, last = columns.values()
        choices = between if {*last.values} == {*_LETTERS[: len(between)]} else []
    return [c.path for c in choices], [next(iter(c.values), "") for c in choices], frozenset(c.path for c in choices)
