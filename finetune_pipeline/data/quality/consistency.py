"""One consistent output format: for each thing a writer decides, which form is usual, and which rows stray from it.

The rule, per dimension (say, how answers end), over the answers to which the question applies:

- ``uniform``: all have one form.
- ``stray``: one form has at least ``1 - max_minority`` of them, but not all. Nearly everybody follows a rule here, so the
  others are most likely mistakes. Fails.
- ``mixed``: no form reaches that. Fails where a form is owed: in tasks with labels, JSON or short answers, and for JSON
  itself. In prose it is ``free`` (no rule that a model could learn wrongly).
- ``few``: fewer than 20 answers; listed, not judged.

The length of free answers is content, not form: outliers are listed and never fail.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.quality import answer_forms, json_forms
from finetune_pipeline.data.quality.sample import chosen, named, part, sampled
from finetune_pipeline.data.shingles import loose_form
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.model import TaskSpec

FEW = 20
DOMINANT = 0.6
FORMS = 10
_SHORT_WORDS, _SHORT_CHARS = 5, 40
_WRITE = "rewrite the rows named, so that all answers follow one rule"


@dataclass(frozen=True)
class _Dimension:
    """name, title for people, the form of each answer (None: not asked), what to do, and whether a form is owed."""

    name: str
    title: str
    forms: Sequence[str | None]
    fix: str = _WRITE
    owed: bool = False
    content: bool = False


def consistency(examples: Sequence[Example], spec: TaskSpec, of: int | None = None) -> dict[str, Any]:
    """The consistency part of the report: the dimensions with their verdicts, and a finding for each that fails.

    of: how many rows there are, when `examples` are a sample already.
    A dimension: name, title, verdict, passed, rows (answers it applies to), form (the usual one), share, minority: a list
    of {form, count, share, rows: up to 20 of {place, id}}, and other_forms (forms not listed).
    """
    looked_at = chosen(examples)
    rows = [e for e in looked_at if e.answer or not e.messages[-1].get("tool_calls")]
    answers = [e.answer for e in rows]
    read = [json_forms.read_json_answer(a) for a in answers]
    structured = sum(a.form != "text" for a in read) >= DOMINANT * max(1, len(rows))
    short = not spec.labels and not structured and _mostly_short(answers)
    strict = bool(spec.labels) or structured or short
    if spec.labels:
        dimensions = _label_dimensions(rows, spec.labels)
    else:
        dimensions = [*_text_dimensions(answers, read), *_json_dimensions(read)]
    limit = spec.data.consistency.max_minority
    judged = [_judge(d, rows, limit, strict) for d in dimensions if any(f is not None for f in d.forms)]
    findings = [_finding(told, fix) for told, fix in judged if not told["passed"]]
    bad = [told["title"] for told, _ in judged if not told["passed"]]
    kind = "labels" if spec.labels else "json" if structured else "short answers" if short else "prose"
    return part(
        not bad,
        f"answers are consistent in all {len(judged)} respects looked at"
        if not bad
        else "answers differ in " + ", ".join(bad),
        findings=findings,
        kind=kind,
        max_minority=limit,
        dimensions=[told for told, _ in judged],
        **sampled(len(looked_at), of or len(examples)),
    )


def _mostly_short(answers: Sequence[str]) -> bool:
    if not answers:
        return False
    words = np.array([len(a.split()) for a in answers])
    return bool(np.percentile(words, 50) <= 3 and np.percentile(words, 90) <= 12)


def _label_dimensions(rows: Sequence[Example], labels: Sequence[str]) -> list[_Dimension]:
    declared = {loose_form(label): label for label in labels}
    spelled: list[str | None] = []
    for e in rows:
        answer = e.answer.strip()
        usual = declared.get(loose_form(answer))
        spelled.append(
            "as declared" if answer in labels else _cut(f"“{answer}” for “{usual}”") if usual else "not a label"
        )
    blanks = [answer_forms.outer_blanks(e.answer) for e in rows]
    return [
        _Dimension("answer_spelling", "label spelling", spelled, "write the labels as they are declared", owed=True),
        _Dimension("outer_blanks", "blanks around the answer", blanks, "remove them", owed=True),
    ]


def _text_dimensions(answers: Sequence[str], read: Sequence[json_forms.JsonAnswer]) -> list[_Dimension]:
    plain = [j.form == "text" for j in read]

    def prose(form: Callable[[str], str | None]) -> list[str | None]:
        return [form(a) if is_plain else None for a, is_plain in zip(answers, plain, strict=True)]

    def every(form: Callable[[str], str | None]) -> list[str | None]:
        return [form(a) for a in answers]

    return [
        _Dimension("final_mark", "final punctuation", prose(answer_forms.final_mark)),
        _Dimension("first_letter", "casing", prose(answer_forms.first_letter)),
        _Dimension("answer_spelling", "spelling of repeated answers", _spellings(answers, plain)),
        _Dimension("markdown", "Markdown", prose(answer_forms.markdown)),
        _Dimension("bullet_mark", "sign of bullets", prose(answer_forms.bullet_mark)),
        _Dimension("wrapping", "quotes or code block around the answer", prose(answer_forms.wrapping)),
        _Dimension("outer_blanks", "blanks around the answer", every(answer_forms.outer_blanks), "remove them"),
        _Dimension("line_ends", "line ends", every(answer_forms.line_ends), "write \\n"),
        _Dimension("lead_in", "opening phrase", prose(answer_forms.lead_in), "remove the opening phrase"),
        _Dimension("script", "script", every(answer_forms.script)),
        _Dimension("mixed_word", "words of two scripts", every(answer_forms.mixed_word), "type the words named again"),
        _Dimension("language", "language (guessed by function words)", prose(answer_forms.language)),
        _Dimension("length", "length", _lengths(answers), "look whether the rows named belong to the task", content=True),
    ]  # fmt: skip


def _json_dimensions(read: Sequence[json_forms.JsonAnswer]) -> list[_Dimension]:
    if all(a.form == "text" for a in read):
        return []
    usual = json_forms.usual_order(read)
    dimensions = [
        _Dimension("json", "JSON or not", [a.form for a in read], "write JSON with a JSON library, in every row"),
        _Dimension("json_layout", "JSON layout", [json_forms.layout(a) for a in read],
                   "write all with one call of a JSON library", owed=True),
        _Dimension("json_keys", "JSON keys", [json_forms.key_set(a) for a in read],
                   "give every answer the same keys, with null where there is no value", owed=True),
        _Dimension("json_key_order", "JSON key order", [json_forms.key_order(a, usual) for a in read],
                   "write the keys in one order", owed=True),
        _Dimension("json_key_style", "JSON key style", [json_forms.key_style(a) for a in read],
                   "write all keys in one style", owed=True),
    ]  # fmt: skip
    for key in json_forms.common_keys(read):
        types = [json_forms.type_name(a.value.get(key)) if isinstance(a.value, dict) else None for a in read]
        if len(set(types) - {None}) > 1:
            title = f"JSON type of `{_cut(key)}`"
            dimensions.append(_Dimension(f"json_type:{key}", title, types, "give the key one type", owed=True))
    return dimensions


def _spellings(answers: Sequence[str], plain: Sequence[bool]) -> list[str | None]:
    """Whether a short answer that occurs again is written as it mostly is ("yes" and "Yes." are one answer)."""
    keys: list[str | None] = []
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for answer, is_plain in zip(answers, plain, strict=True):
        short = is_plain and 0 < len(answer) <= _SHORT_CHARS and len(answer.split()) <= _SHORT_WORDS
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


def _lengths(answers: Sequence[str]) -> list[str | None]:
    """Usual, or beyond the outer fences of Tukey (1977): three interquartile ranges of the logarithm outside."""
    sizes = np.log2([max(1, len(a)) for a in answers]) if answers else np.zeros(0)
    if len(sizes) < FEW:
        return [None] * len(answers)
    low, high = np.percentile(sizes, [25, 75])
    reach = 3 * max(float(high - low), 0.5)
    usual = f"{round(2 ** max(0.0, low - reach)):,} to {round(2 ** (high + reach)):,} characters"
    return ["far shorter" if s < low - reach else "far longer" if s > high + reach else usual for s in sizes]


def _judge(of: _Dimension, rows: Sequence[Example], limit: float, strict: bool) -> tuple[dict[str, Any], str]:
    members: dict[str, list[Example]] = defaultdict(list)
    for e, form in zip(rows, of.forms, strict=True):
        if form is not None:
            members[form].append(e)
    order = sorted(members, key=lambda form: (-len(members[form]), form))
    total = sum(map(len, members.values()))
    share = len(members[order[0]]) / total
    owed = of.owed or strict
    if len(order) == 1:
        verdict = "uniform"
    elif total < FEW:
        verdict = "few"
    elif share >= 1 - limit:
        verdict = "stray"
    else:
        verdict = "mixed" if owed and not (of.content and not strict) else "free"
    told = {
        "name": of.name,
        "title": of.title,
        "verdict": verdict,
        "passed": verdict not in ("stray", "mixed") or (of.content and not strict),
        "rows": total,
        "form": order[0],
        "share": round(share, 6),
        "minority": [
            {"form": form, "count": len(members[form]), "share": round(len(members[form]) / total, 6),
             "rows": named(members[form])}
            for form in order[1 : FORMS + 1]
        ],
        "other_forms": max(0, len(order) - FORMS - 1),
    }  # fmt: skip
    return told, of.fix


def _finding(told: dict[str, Any], fix: str) -> Finding:
    usual, total = round(told["share"] * told["rows"]), told["rows"]
    others = ", ".join(f"{m['form']}: {m['count']:,}" for m in told["minority"][:3])
    more = len(told["minority"]) - 3 + told["other_forms"]
    if more > 0:
        others += f", and {more} more"
    first = told["minority"][0]["rows"][0]["place"]
    if told["verdict"] == "stray":
        message = (
            f"{told['title']}: {usual:,} of {total:,} answers have the form “{told['form']}”, "
            f"{total - usual:,} stray from it ({others})"
        )
    else:
        message = (
            f"{told['title']}: no form is the rule; the commonest, “{told['form']}”, has {usual:,} of {total:,} answers "
            f"({others})"
        )
    return Finding(f"quality.consistency.{told['name'].split(':')[0]}", "warning", first, message, fix)


def _cut(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
