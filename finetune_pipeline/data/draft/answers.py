"""Detects the kind of answers (labels, JSON or free text), counts them, and infers a schema for JSON."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from finetune_pipeline.data.draft.cell_types import NO_ANSWERS, are_written_amounts, is_written_amount
from finetune_pipeline.data.draft.columns import LONGEST_LABEL, MOST_LABELS, is_json_answer, is_time_text
from finetune_pipeline.spec.outputs import folded_label

_KEPT = 20_000
_CHARS_A_TOKEN = 3
_MOST_ENUM = 20
_FINAL = r"#### *(-?[$0-9.,]+)"
_SHARE = 0.9
_REPEATED = 3
_NUMBER = re.compile(r"-?\d+([.,]\d+)?")


class Answers:
    """The answers of all rows.

    Attributes:
        counts: Rows by answer, in the order of output.labels; empty unless the answers are labels.
        values: The first few thousand different answers.
        missing: Rows by label, or by field and value of JSON answers, that look like no answer.
        other_spellings: For each label that differs from another only in case or whitespace: (that label, rows).
        longest: 99th percentile of the answers' length in characters.
        extract: The marker before the final answer, for output.extract.
        problem: Why these answers make no task; empty if they do.
    """

    def __init__(self, answers: Iterable[str], written: bool = False) -> None:
        """Describe the answers of all rows. written: treat them as free text, however few there are."""
        counts: Counter[str] = Counter()
        lengths: Counter[int] = Counter()
        for text in answers:
            lengths[len(text)] += 1
            if text in counts or len(counts) < _KEPT:
                counts[text] += 1
        self.rows, self.values, self.problem = lengths.total(), list(counts), ""
        if not counts:
            self.problem = "no row has a readable answer"
        elif len(set(map(folded_label, counts))) == 1:
            self.problem = f"every row has the same answer, {self.values[0][:60]!r}: there is nothing to learn"
        self.longest = 0 if self.problem else sorted(lengths.elements(), reverse=True)[self.rows // 100]
        self.kind = self._kind(counts, written)
        self.counts = dict(sorted(counts.items(), key=_label_order(counts))) if self.kind == "labels" else {}
        self.other_spellings = _spellings(self.counts)
        self.missing = self._missing(counts)
        marked = sum(bool(re.search(_FINAL, value)) for value in self.values) if self.kind == "text" else 0
        self.extract = _FINAL if marked and marked >= _SHARE * len(self.values) and not self.problem else None

    @property
    def labels(self) -> list[str]:
        return [label for label in self.counts if label not in self.other_spellings]

    @property
    def joined_by(self) -> str | None:
        """The mark between several labels in one, each of which occurs elsewhere too: `bug;docs` beside `bug` and `docs`."""
        short = self.kind != "json" and self.longest <= LONGEST_LABEL
        labels = [value for value in self.values if short and not is_written_amount(value)]  # `1,5`
        for mark in ";|,":
            parts = [{part.strip() for part in label.split(mark)} for label in labels]
            uses = Counter(part for parts_of_label in parts for part in parts_of_label)
            joined = [parts_of_label for parts_of_label in parts if len(parts_of_label) > 1]
            if len(joined) > 1 and all(uses[part] > 1 for parts_of_label in joined for part in parts_of_label):
                return mark
        return None

    @property
    def are_label_sets(self) -> bool:
        """Whether every answer is a list without repeats, so that its order says nothing. Tags of words repeat."""
        lists = [json.loads(value) for value in self.values if self.kind == "json" and is_json_answer(value)]
        texts = [list(map(json.dumps, items)) for items in lists if isinstance(items, list)]
        return bool(texts) and len(texts) == len(lists) and all(len({*items}) == len(items) for items in texts)

    @property
    def max_new_tokens(self) -> int:
        """For output.max_new_tokens, in steps of 64."""
        return max(64, min(2048, -(-self.longest // _CHARS_A_TOKEN // 64) * 64 + 64))

    def _missing(self, counts: Counter[str]) -> dict[str, int]:
        if self.kind == "labels":
            return {label: n for label, n in self.counts.items() if folded_label(label) in NO_ANSWERS}
        found: Counter[str] = Counter()
        for answer, n in counts.items() if self.kind == "json" else ():
            fields = json.loads(answer) if is_json_answer(answer) else None
            for key, value in fields.items() if isinstance(fields, dict) else ():
                if isinstance(value, str) and folded_label(value) in NO_ANSWERS:
                    found[f"{key}: {value}"] += n
        return dict(found)

    def _kind(self, counts: Counter[str], written: bool) -> Literal["labels", "json", "text"]:
        if not self.problem and sum(map(is_json_answer, self.values)) >= _SHARE * len(self.values):
            return "json"
        repeated = sum(n for n in counts.values() if n >= _REPEATED)
        few = len(counts) <= MOST_LABELS and len(counts) * _REPEATED <= self.rows
        short = all(len(label) <= LONGEST_LABEL and "\n" not in label for label in counts)
        labels = few and short and repeated >= _SHARE * self.rows
        return "labels" if labels and not written and not self.problem else "text"


def _label_order(counts: Counter[str]) -> Any:
    """Numeric labels in numeric order, other labels by frequency."""
    if all(_NUMBER.fullmatch(label) for label in counts):
        return lambda item: float(item[0].replace(",", "."))
    return lambda item: (-item[1], item[0])


def _spellings(counts: dict[str, int]) -> dict[str, tuple[str, int]]:
    """Return the labels that :func:`folded_label` equates with a more frequent one, or that are the same number: `1` and `1.0`."""
    by_frequency = sorted(counts, key=lambda label: -counts[label])
    most_frequent = {_folded(label): label for label in reversed(by_frequency)}
    pairs = ((label, most_frequent[_folded(label)]) for label in by_frequency)
    return {label: (other, counts[label]) for label, other in pairs if other != label}


def _folded(label: str) -> str:
    # 1,000 may be a thousand
    return re.sub(r"[.,]0{1,2}$", "", label) if _NUMBER.fullmatch(label) else folded_label(label)


def json_schema_of(values: Sequence[str], rows: int) -> dict[str, Any]:
    """Infer a JSON schema that fits all answers: types, required keys, and enums of fields with few values.

    Args:
        values: The different answers.
        rows: How many rows they answer.
    """
    answers = [json.loads(value) for value in values if is_json_answer(value)]
    schema = _schema(answers, 0, rows / max(1, len(answers)))
    if all(isinstance(answer, list) for answer in answers):
        names = dict.fromkeys(item for answer in answers for item in answer if isinstance(item, str))
        if len(names) <= _MOST_ENUM and rows >= 10 * len(names) and schema.get("items") == {"type": "string"}:
            schema["items"] = {"enum": list(names)}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _schema(values: Sequence[Any], depth: int, rows_a_value: float) -> dict[str, object]:
    kinds = sorted({_TYPES.get(type(value), "null") for value in values})
    if {"integer", "number"} <= set(kinds):
        kinds.remove("integer")
    schema: dict[str, object] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    objects = [v for v in values if isinstance(v, dict)]
    if objects and depth < 6:
        keys = list(dict.fromkeys(key for o in objects for key in o))
        if len(keys) <= 100:
            schema["properties"] = {
                key: _schema([o[key] for o in objects if key in o], depth + 1, rows_a_value) for key in keys
            }
            schema["required"] = [key for key in keys if all(key in o for o in objects)]
            schema["additionalProperties"] = False
    items = [item for v in values if isinstance(v, list) for item in v]
    if items and depth < 6:
        schema["items"] = _schema(items, depth + 1, rows_a_value)
    texts = Counter(v for v in values if isinstance(v, str))
    is_few = len(texts) <= _MOST_ENUM and rows_a_value * len(values) >= 10 * len(texts)
    are_measured = all(map(is_time_text, texts)) or are_written_amounts(
        [t for t in texts if folded_label(t) not in NO_ANSWERS]
    )
    is_few = is_few and not are_measured  # later rows have later dates and other amounts
    if depth and kinds in (["string"], ["null", "string"]) and is_few:
        return {"enum": [*texts, *([None] if "null" in kinds else [])]}
    return schema


_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
"""JSON schema's type names; null for no value."""
