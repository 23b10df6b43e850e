"""Scores of one answer, by the kind of output: every mean, interval, test and report is made of these."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from finetune_pipeline.data.answer_rules import (
    NOT_JSON,
    canonical,
    claims,
    final_answer,
    form_problems,
    repaired,
    schema_of,
    schema_problems,
    strict,
)
from finetune_pipeline.evaluation.answers import answer_of
from finetune_pipeline.evaluation.facts import fact_score
from finetune_pipeline.evaluation.overlap import sentence_scores
from finetune_pipeline.evaluation.text_signs import is_refusal, length_ratio, repetition
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput

Row = Mapping[str, Any]
Form = AnyOutput | Sequence[str] | None
"""An output as the spec declares it; or a label set, empty or None for free text."""

_NUMBER = re.compile(r"[-+]?[$€£]?\s?[-+]?\d[\d,]*(?:\.\d+)?%?")

_DECODER = json.JSONDecoder()


def as_output(form: Form) -> AnyOutput:
    """The output a form stands for."""
    if isinstance(form, (LabelsOutput, TextOutput, JsonOutput)):
        return form
    return LabelsOutput.model_construct(labels=list(form)) if form else TextOutput()


def scored_text(row: Row) -> str:
    """The text that is scored: what was generated, even when cut at the token limit; empty when generation failed."""
    return "" if row["status"] == "error" else str(row["text"])


def is_valid(row: Row, output: AnyOutput) -> bool:
    """Whether an answer is finished and in the declared form."""
    return row["status"] == "ok" and not form_problems(row["text"], output)


def is_right(row: Row, output: AnyOutput) -> bool:
    """Whether an answer is the gold one. Failed, empty and cut answers never are.

    Labels: letter by letter. JSON: the same value, whatever the order of keys and of unordered lists; strictly parsed
    unless the spec accepts repaired answers. Text: the same text, calls
    of tools by their content; with `extract`, the same final answer.
    """
    if row["status"] != "ok":
        return False
    if isinstance(output, LabelsOutput):
        return answer_of(row, output.labels) == row["gold"]
    if isinstance(output, JsonOutput):
        return read_json(row, output).exact(output.accept_repaired)
    if output.extract:
        said = final_answer(row["text"], output.extract)
        return said is not None and same_answer(said, final_answer(row["gold"], output.extract) or "")
    return bool(row["text"].strip() == row["gold"].strip()) or same_calls(row["text"], row["gold"])


def same_calls(said: str, gold: str) -> bool:
    """Whether two texts that hold calls of tools hold the same ones: the same text but for how the JSON in it is written.

    Order of keys, blanks and escapes do not count; names, values and the order of the calls do. Only for texts in which
    every JSON object is a call ({"name": …, "arguments" or "parameters": {…}}); other JSON is text like any other.
    """
    a, b = _with_plain_calls(said), _with_plain_calls(gold)
    return a is not None and a == b


def _with_plain_calls(text: str) -> list[str] | None:
    """The text between the calls (blanks at its ends off) and the calls in one form, in turn; None without any call."""
    parts, at, found = [], 0, False
    while (start := text.find("{", at)) >= 0:
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or "name" not in value or not ({"arguments", "parameters"} & set(value)):
            return None
        found = True
        parts += [text[at:start].strip(), json.dumps(value, sort_keys=True)]
        at = end
    return [*parts, text[at:].strip()] if found else None


def same_answer(a: str, b: str) -> bool:
    """Whether two final answers are the same: as numbers where both are one (1,000 is 1000.0; $5 is 5), else as texts."""
    x, y = _as_number(a), _as_number(b)
    return x == y if x is not None and y is not None else a.strip() == b.strip()


def _as_number(text: str) -> Decimal | None:
    stripped = text.strip().rstrip(".")
    if not _NUMBER.fullmatch(stripped):
        return None
    try:
        return Decimal(re.sub(r"[$€£,\s]", "", stripped).rstrip("%"))
    except InvalidOperation:
        return None


@dataclass(frozen=True, slots=True)
class JsonRow:
    """One extraction. parse: strict, repaired or none; value: what was read; claimed and gold: see json_values.claims;
    complies: with the schema, strictly parsed; same: the value is the gold one."""

    parse: str
    value: Any
    claimed: dict[str, Counter[str]]
    gold: dict[str, Counter[str]]
    complies: bool
    same: bool

    def exact(self, accept_repaired: bool = False) -> bool:
        """Whether the answer is the gold value, as production would read it."""
        return self.same and (self.parse == "strict" or (accept_repaired and self.parse == "repaired"))

    def counts(self) -> tuple[int, int, int]:
        """(right, claimed, expected) claims, over all fields."""
        right = sum(sum((c & self.gold.get(field, Counter())).values()) for field, c in self.claimed.items())
        return right, _size(self.claimed), _size(self.gold)


def _size(of: Mapping[str, Counter[str]]) -> int:
    return sum(sum(c.values()) for c in of.values())


def read_json(row: Row, output: JsonOutput) -> JsonRow:
    """A prediction row as an extraction.

    A finished answer is parsed strictly. One that does not parse, or was cut, is repaired, to tell bad form from bad
    reading; what it says claims nothing unless the spec accepts repaired answers. An error or nothing is `none`.
    """
    gold = strict(row["gold"])
    if gold is NOT_JSON:
        raise ValueError(f"the gold answer of example {row['example_id']} is not JSON")
    value = strict(row["text"]) if row["status"] == "ok" else NOT_JSON
    parse = "strict" if value is not NOT_JSON else "none"
    if value is NOT_JSON and row["status"] in ("ok", "truncated"):
        value = repaired(row["text"])
        parse = "repaired" if value is not NOT_JSON else "none"
    counted = parse == "strict" or (parse == "repaired" and output.accept_repaired and row["status"] == "ok")
    unordered = frozenset(output.unordered)
    return JsonRow(
        parse=parse,
        value=None if value is NOT_JSON else value,
        claimed=claims(value, unordered) if counted else {},
        gold=claims(gold, unordered),
        complies=parse == "strict" and not schema_problems(value, schema_of(output)),
        same=value is not NOT_JSON and canonical(value, unordered) == canonical(gold, unordered),
    )


def row_scores(row: Row, form: Form) -> dict[str, float]:
    """Every score of one prediction row, each between 0 and 1 unless said otherwise.

    All kinds: `correct`, `valid`. json: also `right`, `claimed`, `expected` (counts), `f1`, `schema`, `strict`,
    `repaired`. text: also rouge1, rouge2, rougeLsum, chrf, bleu, `facts`, `repetition`, `refusal`, and `length_ratio`
    (characters over the gold's).
    """
    output = as_output(form)
    scores = {"correct": float(is_right(row, output)), "valid": float(is_valid(row, output))}
    if isinstance(output, JsonOutput):
        read = read_json(row, output)
        right, claimed, expected = read.counts()
        return scores | {
            "right": float(right),
            "claimed": float(claimed),
            "expected": float(expected),
            "f1": 2 * right / (claimed + expected) if claimed + expected else float(read.exact(output.accept_repaired)),
            "schema": float(read.complies),
            "strict": float(read.parse == "strict"),
            "repaired": float(read.parse == "repaired"),
        }
    if isinstance(output, TextOutput):
        said, gold = scored_text(row), str(row["gold"])
        return scores | {
            **sentence_scores(said, gold),
            "facts": fact_score(said, gold),
            "repetition": repetition(said),
            "refusal": float(is_refusal(said)),
            "length_ratio": length_ratio(said, gold),
        }
    return scores


def metric_values(rows: Sequence[Row], metric: str, form: Form) -> list[float]:
    """The metric of every row: of right answers 0 or 1, of overlap and facts its value. Raises ValueError for the F1
    scores, which are made of counts, not of a mean over rows."""
    output = as_output(form)
    if metric in ("accuracy", "exact"):
        return [float(is_right(row, output)) for row in rows]
    if metric == "facts":
        return [fact_score(scored_text(row), str(row["gold"])) for row in rows]
    if metric in ("rouge1", "rouge2", "rougeLsum", "chrf", "bleu"):
        return [sentence_scores(scored_text(row), str(row["gold"]), (metric,))[metric] for row in rows]
    raise ValueError(f"{metric} is not a mean over rows")
