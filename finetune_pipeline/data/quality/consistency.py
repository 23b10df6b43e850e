"""Checks that answers have one format: the same JSON keys and types, and one spelling of repeated answers.

The rule, per dimension (say, the keys of JSON answers), over the answers to which the question applies:

- ``uniform``: all have one form.
- ``stray``: one form has at least ``1 - max_minority`` of them, but not all; the others are most likely mistakes. Fails.
- ``mixed``: no form reaches that. Fails for JSON and short answers; in prose it is ``free``.
- ``few``: fewer than 20 answers; listed, not judged.

Labels are not asked about here: validation takes them letter by letter.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_pipeline.data.dedup.text_similarity import loose_form
from finetune_pipeline.data.examples import Example, chosen
from finetune_pipeline.data.quality.parts import named, part, sampled
from finetune_pipeline.findings import Finding, most_first
from finetune_pipeline.spec.model import TaskSpec

FEW = 20
DOMINANT = 0.6
"""Share of answers from which a set is one of JSON answers."""
FORMS = 10
"""Rarer forms that are listed."""
KEYS = 30
"""Keys whose types are looked at."""
_SHORT_WORDS, _SHORT_CHARS = 5, 40
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*)\n```$", re.DOTALL)
_LOOKS_LIKE = re.compile(r'^(\{\s*["}]|\[\s*(?:[\[{"\]]|-?\d+\s*[,\]]))')
_PYTHON = re.compile(r"^[{\[]\s*\{?\s*'")
_TYPES = ((bool, "true/false"), ((int, float), "number"), (str, "text"), (list, "list"), (dict, "object"))


@dataclass(frozen=True)
class _Dimension:
    """name, title for people, the form of each answer (None: not asked), what to do."""

    name: str
    title: str
    forms: Sequence[str | None]
    fix: str


def consistency(examples: Sequence[Example], spec: TaskSpec, of: int | None = None) -> dict[str, Any]:
    """The consistency part of the report: the dimensions with their verdicts, and a finding for each that fails.

    Args:
        examples: The rows, or a sample of them.
        spec: The task.
        of: How many rows there are, when `examples` are a sample already.

    Returns:
        A part of the report with kind (json, short answers or prose), max_minority, and dimensions: each name, title,
        verdict, passed, rows (answers it applies to), form (the usual one), share, minority: a list of {form, count,
        share, rows: up to 20 of {place, id}}, and other_forms (forms not listed).
    """
    limit = spec.data.consistency.max_minority
    if spec.labels:
        message = "not asked: labels are checked letter by letter in every row"
        return part(True, message, applies=False, kind="labels", max_minority=limit, dimensions=[])
    looked_at = chosen(examples)
    rows = [e for e in looked_at if e.answer or not e.messages[-1].get("tool_calls")]
    answers = [e.answer for e in rows]
    read = [read_json(a) for a in answers]
    structured = sum(form != "text" for form, _ in read) >= DOMINANT * max(1, len(rows))
    short = not structured and _mostly_short(answers)
    dimensions = [
        _Dimension("answer_spelling", "spelling of repeated answers", _spellings(answers, read),
                   "rewrite the rows named, so that all answers follow one rule"),
        *_json_dimensions(read),
    ]  # fmt: skip
    judged = [
        _judge(d, rows, limit, structured or short) for d in dimensions if any(form is not None for form in d.forms)
    ]
    bad = [dimension["title"] for dimension, _ in judged if not dimension["passed"]]
    consistent = f"answers are consistent in all {len(judged)} respects looked at"
    return part(
        not bad,
        "answers differ in " + ", ".join(bad) if bad else consistent,
        findings=[_finding(dimension, fix) for dimension, fix in judged if not dimension["passed"]],
        kind="json" if structured else "short answers" if short else "prose",
        max_minority=limit,
        dimensions=[dimension for dimension, _ in judged],
        **sampled(len(looked_at), of or len(examples)),
    )


def _mostly_short(answers: Sequence[str]) -> bool:
    if not answers:
        return False
    words = np.array([len(a.split()) for a in answers])
    return bool(np.percentile(words, 50) <= 3 and np.percentile(words, 90) <= 12)


def read_json(answer: str) -> tuple[str, Any]:
    """(form, value) of an answer seen as JSON: ``JSON object``, ``JSON list``, either in a code block, ``broken JSON``,
    Python's quotes, or ``text``; the value is None unless it is sound."""
    stripped = answer.strip()
    fence = _FENCE.match(stripped)
    raw = fence.group(1).strip() if fence else stripped
    if not raw.startswith(("{", "[")):
        return "text", None
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        if _PYTHON.match(raw):
            return "single quotes in place of JSON's", None
        return ("broken JSON" if _LOOKS_LIKE.match(raw) else "text"), None
    kind = "JSON object" if isinstance(value, dict) else "JSON list"
    return kind + (" in a code block" if fence else ""), value


def _json_dimensions(read: Sequence[tuple[str, Any]]) -> list[_Dimension]:
    if all(form == "text" for form, _ in read):
        return []
    objects = [value if isinstance(value, dict) else None for _, value in read]
    keys = [None if value is None else ", ".join(sorted(value)) or "no key" for value in objects]
    dimensions = [
        _Dimension("json", "JSON or not", [form for form, _ in read], "write JSON with a JSON library, in every row"),
        _Dimension("json_keys", "JSON keys", keys,
                   "give every answer the same keys, with null where there is no value"),
    ]  # fmt: skip
    counts = Counter(key for value in objects if value is not None for key in list(value)[:KEYS])
    for key in list(most_first(counts))[:KEYS]:
        types = [None if value is None else _type_name(value.get(key)) for value in objects]
        if len(set(types) - {None}) > 1:
            title = f"JSON type of `{_cut(key)}`"
            dimensions.append(_Dimension(f"json_type:{key}", title, types, "give the key one type"))
    return dimensions


def _type_name(value: Any) -> str | None:
    """JSON type of a value; None for null."""
    return next((name for kind, name in _TYPES if isinstance(value, kind)), None)  # type: ignore[arg-type]


def _spellings(answers: Sequence[str], read: Sequence[tuple[str, Any]]) -> list[str | None]:
    """Whether a short answer that occurs again is written as it mostly is ("yes" and "Yes." are one answer)."""
    keys: list[str | None] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for answer, (form, _) in zip(answers, read, strict=True):
        short = form == "text" and 0 < len(answer) <= _SHORT_CHARS and len(answer.split()) <= _SHORT_WORDS
        key = loose_form(answer) if short else None
        keys.append(key)
        if key is not None:
            counts[key][answer.strip()] += 1
    usual = {key: min(of, key=lambda s: (-of[s], s)) for key, of in counts.items() if of.total() > 1}
    return [
        None if key not in usual else "usual spelling" if answer.strip() == usual[key] else
        _cut(f"“{answer.strip()}” for “{usual[key]}”")
        for key, answer in zip(keys, answers, strict=True)
    ]  # fmt: skip


def _judge(of: _Dimension, rows: Sequence[Example], limit: float, strict: bool) -> tuple[dict[str, Any], str]:
    members: dict[str, list[Example]] = defaultdict(list)
    for e, form in zip(rows, of.forms, strict=True):
        if form is not None:
            members[form].append(e)
    order = sorted(members, key=lambda form: (-len(members[form]), form))
    total = sum(map(len, members.values()))
    share = len(members[order[0]]) / total
    if len(order) == 1:
        verdict = "uniform"
    elif total < FEW:
        verdict = "few"
    elif share >= 1 - limit:
        verdict = "stray"
    else:
        verdict = "mixed" if strict else "free"
    minority = [
        {"form": form, "count": len(members[form]), "share": round(len(members[form]) / total, 6),
         "rows": named(members[form])}
        for form in order[1 : FORMS + 1]
    ]  # fmt: skip
    return {
        "name": of.name,
        "title": of.title,
        "verdict": verdict,
        "passed": verdict not in ("stray", "mixed"),
        "rows": total,
        "form": order[0],
        "share": round(share, 6),
        "minority": minority,
        "other_forms": max(0, len(order) - FORMS - 1),
    }, of.fix


def _finding(dimension: dict[str, Any], fix: str) -> Finding:
    usual, total = round(dimension["share"] * dimension["rows"]), dimension["rows"]
    others = ", ".join(f"{m['form']}: {m['count']:,}" for m in dimension["minority"][:3])
    more = len(dimension["minority"]) - 3 + dimension["other_forms"]
    if more > 0:
        others += f", and {more} more"
    first = dimension["minority"][0]["rows"][0]["place"]
    message = (
        f"{dimension['title']}: {usual:,} of {total:,} answers have the form “{dimension['form']}”, "
        f"{total - usual:,} stray from it ({others})"
    )
    if dimension["verdict"] == "mixed":
        message = f"{dimension['title']}: no form is the rule; “{dimension['form']}” has {usual:,} of {total:,} answers ({others})"
    return Finding(f"quality.consistency.{dimension['name'].split(':')[0]}", "warning", first, message, fix)


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
