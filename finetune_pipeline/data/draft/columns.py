"""The columns of raw rows of any shape: each leaf with its JMESPath and a description of its values."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from finetune_pipeline.data.draft.model_answers import answer_in
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.names import GUESSES, IDS, LABELS, LEFT_OUT, REJECTED, key_path, plain_name, rank

KEY, ELEMENT = "$key", "element"
SAMPLE = 2_000
"""Rows used to compare columns without a known name."""
_DEEPEST = 6
_MOST_VALUES = 5_000
MOST_LABELS, LONGEST_LABEL, LABEL_WORDS = 500, 100, 8
"""A column with more values, or longer ones, is not a label."""
_SPLITS = re.compile(r"(oos_)?(train|val|valid|validation|dev|test|eval|all|data|rows|items|examples)(_?\w{0,4})?")

Kind = Literal["text", "number", "bool", "object", "list", "mixed"]
_KINDS: dict[type, Kind] = {bool: "bool", int: "number", float: "number", str: "text", dict: "object", list: "list"}


@dataclass
class Column:
    """One column of the rows, addressed by JMESPath.

    Attributes:
        filled: How many rows have a value.
        kinds: Rows by the JSON type of the value.
        values: Rows per value, as text, of the first few thousand values.
        words: Number of words in all values.
        longest: Characters of the longest value.
    """

    path: str
    name: str
    rows: int = 0
    filled: int = 0
    kinds: Counter[Kind] = field(default_factory=Counter)
    values: Counter[str] = field(default_factory=Counter)
    words: int = 0
    longest: int = 0

    def add(self, value: Any) -> None:
        if value is None or (isinstance(value, str) and not value.strip()):
            return
        self.filled += 1
        self.kinds[_KINDS.get(type(value), "mixed")] += 1
        text = as_text(value)
        if text in self.values or len(self.values) < _MOST_VALUES:
            self.values[text] += 1
        self.words += max(len(text.split()), len(_UNSPACED.findall(text)) // 2)
        self.longest = max(self.longest, len(text))

    @property
    def kind(self) -> Kind:
        return self.kinds.most_common(1)[0][0] if self.kinds else "mixed"

    @property
    def mean_words(self) -> float:
        return self.words / max(1, self.filled)

    @property
    def expression(self) -> str:
        """How `data.fields` reads the values as text."""
        plain = self.kinds.keys() <= {"text"} or self.path == KEY
        all_of = self.path if self.path.startswith("join(") else re.sub(r"(?<=.)\[0\]", "[]", self.path)
        if all_of != self.path and self.is_label:  # a list that holds two one day gives both, which is no label
            return f"join(', ', {all_of if plain else f'{all_of}.to_string(@)'})"
        return self.path if plain else f"to_string({self.path})"

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, or numeric text."""
        return bool(self.values) and all(_NUMBER.fullmatch(value) for value in list(self.values)[:200])

    @property
    def is_rejected(self) -> bool:
        """Whether the column belongs to the rejected answer of preference data."""
        return not REJECTED.isdisjoint(re.split(r"[.\[]", self.path))

    @property
    def is_guess(self) -> bool:
        """Whether the column is, or lies in, what a machine proposed to the people who labelled."""
        return not GUESSES.isdisjoint(plain_name(self.path).split("_"))

    def is_below(self, keys: frozenset[str]) -> bool:
        """Whether the column lies below one of these keys of the row."""
        return not keys.isdisjoint(re.split(r"[.\[]", self.path)[:-1])

    @property
    def is_decision(self) -> bool:
        """Whether the column says which rows annotators accepted."""
        known = LEFT_OUT.get(plain_name(self.name), ())
        said = {value.casefold() for value in self.values}
        return bool(known) and said <= {*known, "accept", "submitted", "approved"}

    @property
    def is_top(self) -> bool:
        """Whether the column is a key of the row."""
        return not re.search(r"\.|.\[", self.path)

    @property
    def is_id(self) -> bool:
        """Whether the values are ids, timestamps or paths without content."""
        some = list(self.values)[:200]
        stamped = bool(some) and sum(map(_is_moment, some)) >= 0.9 * len(some)
        linked = bool(some) and all(value.startswith(("http://", "https://")) for value in some)
        unique = len(self.values) >= min(0.95 * self.filled, _MOST_VALUES) and self.mean_words <= 1.2
        unique = unique and self.filled > 20 and plain_name(self.name) not in ("answer", "ground_truth")  # of sums
        return stamped or linked or plain_name(self.name) in IDS or unique

    @property
    def is_reference(self) -> bool:
        """Whether the column names something kept elsewhere, such as the database that a question is about."""
        name, _, last = plain_name(self.name).rpartition("_")
        return last == "id" and not self.numeric and rank(name, LABELS) is None

    @property
    def is_text(self) -> bool:
        """Whether the column may hold the user's text."""
        if self.kind not in ("text", "mixed") or self.filled < 0.5 * self.rows or self.numeric or self.is_id:
            return False
        return len(self.values) >= 0.2 * min(self.filled, _MOST_VALUES) and self.path != KEY

    @property
    def is_label(self) -> bool:
        """Whether the column may hold labels: few, short, repeated values."""
        few = 2 <= len(self.values) <= min(MOST_LABELS, max(2, self.filled // 3))
        if not few or self.filled < 0.5 * self.rows or self.kind in ("object", "list"):
            return False
        if self.numeric and (len(self.values) > 20 or not all(_WHOLE.fullmatch(value) for value in self.values)):
            return False
        if self.path == KEY and all(_SPLITS.fullmatch(plain_name(value)) for value in self.values):
            return False
        if sum(n for n in self.values.values() if n >= 3) < 0.9 * self.filled:
            return False
        moments = all(map(_is_moment, list(self.values)[:50]))
        return not moments and self.longest <= LONGEST_LABEL and self.mean_words <= LABEL_WORDS and self.name not in IDS

    @property
    def is_json(self) -> bool:
        """Whether the values are JSON objects or lists, also as text."""
        some = list(self.values)[:50]
        return bool(some) and (self.kind in ("object", "list") or all(map(is_json_answer, some)))


_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)*(e[-+]?\d+)?", re.IGNORECASE)
# Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean, and emoji: two characters count as a word
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U0001f000-\U0001faff]"
)
_WHOLE = re.compile(r"[-+]?\d+([.,](0|5))?")


def is_json_answer(text: str) -> bool:
    with suppress(ValueError, RecursionError):
        return text.lstrip()[:1] in ("{", "[") and isinstance(json.loads(text), dict | list)
    return False


def _is_moment(text: str) -> bool:
    if len(text) < 8 or not text[:1].isdigit():
        return False
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return bool(re.match(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}( |T|$)", text))
    return True


def as_text(value: Any) -> str:
    """A value as text, like `to_string` of `data.fields`; a date as its own."""
    if isinstance(value, str | date):
        return str(value).strip()
    return json.dumps(value, ensure_ascii=False, default=str)


def leaves(value: Any, path: str = "", name: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """(path, name, value) of everything in a row: an object as a whole and by its keys; a list as a whole, by its places
    where the row itself is one, by its element where it has one alone, and by the names of labels; what a model said as its
    text alone."""
    if path and (said := answer_in(value, path)):
        yield said[0], name, said[1]
        return
    if path:
        yield path, name, value
    if isinstance(value, dict):
        for key, item in value.items() if depth < _DEEPEST and len(value) <= 200 else ():
            at = key_path(str(key))
            yield from leaves(item, f"{path}.{at}" if path else at, str(key), depth + 1)
    elif isinstance(value, list) and not path and len(value) <= 20:
        for i, item in enumerate(value):
            yield from leaves(item, f"[{i}]", f"[{i}]", depth + 1)
    elif isinstance(value, list) and value and all(isinstance(item, dict) and _control(item) for item in value):
        yield from _controls(value, path, depth)
    elif isinstance(value, list) and value and all(isinstance(i, dict) and {"id", "value"} == i.keys() for i in value):
        for field in value:  # custom fields of tickets
            at = f"{path}[?id == `{json.dumps(field['id']).replace('`', '')}`] | [0].value"
            yield from leaves(field["value"], at, str(field["id"]), depth + 1)
    elif isinstance(value, list):
        if value and rank(name, LABELS) is not None and all(isinstance(i, dict) and "name" in i for i in value):
            yield f"{path}[].name", name, [item["name"] for item in value]  # labels with a colour each, as of issues
        if len(value) == 1:
            yield from leaves(value[0], f"{path}[0]", name, depth)
    elif not path:
        yield "@", "text", value


def _control(result: dict[str, Any]) -> str:
    """The name of the control that a result of Label Studio comes from."""
    name = result.get("from_name")
    return name if isinstance(name, str) and name.isprintable() and not {"'", "\\"} & {*name} else ""


def _controls(results: list[dict[str, Any]], path: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    """The leaves of what Label Studio's controls hold: one choice, text or number each, or regions of the text."""
    for control in dict.fromkeys(map(_control, results)):
        values = [result.get("value") for result in results if result["from_name"] == control]
        of_control = f"{path}[?from_name == '{control}']"
        if isinstance(value := values[0], dict) and len(values) == len(value) == 1:
            key = next(iter(value))
            yield from leaves(value[key], f"{of_control} | [0].value.{key_path(key)}", control, depth + 1)
        else:
            yield f"{of_control}.value", "entities", values


def columns_of(rows: Sequence[RawRow]) -> dict[str, Column]:
    """Every column of the rows, by its path."""
    columns: dict[str, Column] = {}
    longer: set[str] = set()
    for row in rows:
        for path, name, value in leaves(row.value):
            columns.setdefault(path, Column(path, name)).add(value)
            if isinstance(value, list) and len(value) > 1:
                longer.add(f"{path}[0]")
        if row.key is not None:
            columns.setdefault(KEY, Column(KEY, KEY)).add(row.key)
    for column in columns.values():
        column.rows = len(rows)
    return {path: c for path, c in columns.items() if not path.startswith(tuple(longer))}


def exploded(rows: Sequence[RawRow], name: str) -> list[RawRow]:
    """The rows that `data.fields.each` makes: one for each element of a list, with the row's other keys."""
    made = []
    for row in rows:
        outer = dict(row.value) if isinstance(row.value, dict) else {}
        elements = outer.pop(name, None)
        for element in elements if isinstance(elements, list) else ():
            own = element if isinstance(element, dict) else {ELEMENT: element}
            made.append(RawRow(row.key, {**outer, **own}))
    return made
