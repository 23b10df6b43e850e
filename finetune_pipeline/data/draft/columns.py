"""The columns of raw rows of any shape: each leaf with its JMESPath and a description of its values."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal

from finetune_pipeline.data import names
from finetune_pipeline.data.draft.reading import RawRow
from finetune_pipeline.data.formats.tool_calls import unpacked
from finetune_pipeline.data.names import key_path, plain_name, rank

KEY, ELEMENT = "$key", "element"
SAMPLE = 2_000
"""Rows used to compare columns without a known name."""
_DEEPEST = 6
MOST_VALUES = 5_000
MOST_LABELS, LONGEST_LABEL, LABEL_WORDS = 500, 100, 8
"""A column with more values, or longer ones, is not a label."""
_SPLITS = re.compile(r"(oos_)?(train|val|valid|validation|dev|test|eval|all|data|rows|items|examples)(_?\w{0,4})?")

Kind = Literal["text", "number", "bool", "object", "list", "mixed"]
_KINDS: dict[type, Kind] = {bool: "bool", int: "number", float: "number", str: "text", dict: "object", list: "list"}


@dataclass(frozen=True)
class Refusal:
    """Why rows make no task, and what to do."""

    message: str
    fix: str


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
        if text in self.values or len(self.values) < MOST_VALUES:
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
        all_items = self.path if self.path.startswith("join(") else re.sub(r"(?<=.)\[0\]", "[]", self.path)
        if all_items != self.path and self.is_label:  # reads all items: two of them make no label
            return f"join(', ', {all_items if plain else f'{all_items}.to_string(@)'})"
        return self.path if plain and not self.is_json else f"to_string({self.path})"

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, or numeric text."""
        return bool(self.values) and all(_NUMBER.fullmatch(value) for value in list(self.values)[:200])

    @property
    def is_rejected(self) -> bool:
        """Whether the column belongs to the rejected answer of preference data."""
        return not names.REJECTED.isdisjoint(re.split(r"[.\[]", self.path))

    @property
    def is_guess(self) -> bool:
        """Whether the column holds, or lies below, what a machine proposed to the annotators."""
        return not names.GUESSES.isdisjoint(plain_name(self.path).split("_"))

    def is_below(self, keys: frozenset[str]) -> bool:
        """Whether the column lies below one of these keys of the row."""
        return not keys.isdisjoint(re.split(r"[.\[]", self.path)[:-1])

    @property
    def is_decision(self) -> bool:
        """Whether the column says which rows annotators accepted."""
        left_out_values = names.LEFT_OUT.get(plain_name(self.name), ())
        folded_values = {value.casefold() for value in self.values}
        return bool(left_out_values) and folded_values <= {*left_out_values, "accept", "submitted", "approved"}

    @property
    def is_top(self) -> bool:
        """Whether the column is a key of the row. A quoted key may hold dots: `"person.age"`."""
        return bool(_QUOTED.fullmatch(self.path)) or not re.search(r"\.|.\[", self.path)

    @property
    def is_time(self) -> bool:
        """Whether nearly all values are times; a survey repeats its column names among them."""
        first_values = list(self.values)[:200]
        return sum(map(is_time_text, first_values)) >= 0.9 * len(first_values)

    @property
    def is_id(self) -> bool:
        """Whether the values are ids, timestamps or paths without content."""
        linked = all(value.startswith(("http://", "https://")) for value in list(self.values)[:200])
        unique = len(self.values) >= min(0.95 * self.filled, MOST_VALUES) and self.mean_words <= 1.2
        unique = unique and self.filled > 20 and plain_name(self.name) not in ("answer", "ground_truth")  # of sums
        return self.is_time or linked or plain_name(self.name) in names.IDS or unique

    @property
    def is_reference(self) -> bool:
        """Whether the column holds ids of something outside the rows, such as the database that a question is about."""
        name, _, last = plain_name(self.name).rpartition("_")
        return last == "id" and not self.numeric and rank(name, names.LABELS) is None

    @property
    def is_text(self) -> bool:
        """Whether the column may hold the user's text."""
        if self.kind not in ("text", "mixed") or self.filled < 0.5 * self.rows or self.numeric or self.is_id:
            return False
        return len(self.values) >= 0.2 * min(self.filled, MOST_VALUES) and self.path != KEY

    @property
    def is_label(self) -> bool:
        """Whether the column may hold labels: few, short, repeated values."""
        few = 2 <= len(self.values) <= min(MOST_LABELS, max(2, self.filled // 3))
        short = self.longest <= LONGEST_LABEL and self.mean_words <= LABEL_WORDS
        repeated = sum(n for n in self.values.values() if n >= 3) >= 0.9 * self.filled
        if not (few and short and repeated) or self.filled < 0.5 * self.rows or self.kind in ("object", "list"):
            return False
        many = len(self.values) > 20 and rank(self.name, names.CLASSES) is None
        amounts = self.numeric and (many or not all(_WHOLE.fullmatch(value) for value in self.values))
        splits = self.path == KEY and all(_SPLITS.fullmatch(plain_name(value)) for value in self.values)
        return not (amounts or splits or self.is_time or self.name in names.IDS)

    @property
    def is_json(self) -> bool:
        """Whether the values are JSON objects or lists, also as text."""
        first_values = list(self.values)[:50]
        return bool(first_values) and (self.kind in ("object", "list") or all(map(is_json_answer, first_values)))

    @property
    def is_record(self) -> bool:
        """Whether the values are JSON that says who made it or where it is stored, or lists with lists in their elements, such
        as annotations and comments: no answers."""
        return any(_RECORD.search(value) or _NESTED.search(value) for value in list(self.values)[:50])


_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)*(e[-+]?\d+)?", re.IGNORECASE)
# Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean, and emoji: two characters count as a word
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U0001f000-\U0001faff]"
)
_RECORD = re.compile(r'"(id|uuid|\w{1,40}_id|\w{0,40}[a-z]Id|created_at|updated_at|completed_by)": ')
_NESTED = re.compile(r"\[(\[|\{[^\[\]{}]{0,1000}[\[{])")
_WHOLE = re.compile(r"[-+]?\d+([.,](0|5))?")


def is_json_answer(text: str) -> bool:
    """Whether a text is a JSON object or list, or one as Python writes it."""
    return not isinstance(unpacked(text), str)


def is_time_text(text: str) -> bool:
    if len(text) < 8 or not text[:1].isdigit():
        return False
    with suppress(ValueError):
        return bool(datetime.fromisoformat(text.strip()))
    return bool(re.match(r"\d{1,4}[-./]\d{1,2}[-./]\d{1,4}( |T|$)", text))


def as_text(value: Any) -> str:
    """Return a value as text, like `to_string` of `data.fields`; a date as Python prints it."""
    if isinstance(value, str | date):
        return str(value).strip()
    return json.dumps(value, ensure_ascii=False, default=str)


def leaves(value: Any, path: str = "", name: str = "", depth: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, name, value) of everything in a row. An object comes as a whole and by its keys; a list as a whole, by index
    if it is the row itself, by its element if it has only one that holds no further list or object, and by the names of
    labels."""
    if path:
        yield path, name, value
    if isinstance(value, dict):
        for key, item in value.items() if depth < _DEEPEST and len(value) <= (200 if path else 5_000) else ():
            key_expression = key_path(str(key))
            yield from leaves(item, f"{path}.{key_expression}" if path else key_expression, str(key), depth + 1)
    elif isinstance(value, list) and not path and len(value) <= 20:
        for i, item in enumerate(value):
            yield from leaves(item, f"[{i}]", f"[{i}]", depth + 1)
    elif isinstance(value, list):
        if value and rank(name, names.LABELS) is not None and all(isinstance(i, dict) and "name" in i for i in value):
            yield f"{path}[].name", name, [item["name"] for item in value]  # issues' labels have a colour each
        if len(value) == 1 and not isinstance(value[0], list) and not holds_more(value[0]):
            yield from leaves(value[0], f"{path}[0]", name, depth)
    elif not path:
        yield "@", "text", value


def columns_of(rows: Sequence[RawRow]) -> dict[str, Column]:
    """Every column of the rows, by its path."""
    columns: dict[str, Column] = {}
    longer, empty, nested = set[str](), set[str](), set[str]()
    for row in rows:
        for path, name, value in leaves(row.value):
            columns.setdefault(path, Column(path, name)).add(value)
            if isinstance(value, list) and len(value) > 1:
                longer.add(f"{path}[0]")
            elif value == [] and rank(name, names.LABELS) is None:  # without labels a row is unlabelled
                empty.add(f"{path}[0]")
            elif isinstance(value, list) and any(map(holds_more, value)):
                nested.add(f"{path}[0]")
        if row.key is not None:
            columns.setdefault(KEY, Column(KEY, KEY)).add(row.key)
    for column in columns.values():
        column.rows = len(rows)
    lists = tuple(longer | empty - nested)  # an empty list of plain elements is an answer: nothing was there
    return {path: c for path, c in columns.items() if not path.startswith(lists)}


def holds_more(element: Any) -> bool:
    """Whether an element of a list is an object with lists or objects of its own, as annotations are."""
    return isinstance(element, dict) and any(isinstance(value, dict | list) for value in element.values())
