"""Classifies wrong answers by rule, and detects degenerate text without a reference."""

import re
from collections import Counter
from dataclasses import dataclass

from finetune_pipeline.data.answer_rules import final_answer
from finetune_pipeline.evaluation.correctness import INVALID, Row
from finetune_pipeline.evaluation.metrics.facts import facts
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored_row
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput

REPEATED = 0.3
"""A text with this share of repeated word 4-grams is repetitive: edited prose stays under 0.05."""
_GRAM = 4
_REFUSAL = re.compile(
    r"\b(?:i(?:['’]m| am) (?:sorry|afraid|unable|not able)\b[^.!?\n]{0,60}\b(?:can(?:['’]?t|not)|unable|not able|help|assist|"
    r"provide|do that)|i (?:can(?:['’]t|not)|won['’]t|am unable to|am not able to) (?:help|assist|provide|answer|do|comply|"
    r"fulfil|process|access|create|write|discuss)|as an? (?:ai|artificial intelligence|(?:large )?language model)\b|"
    r"i (?:don['’]t|do not) have (?:the ability|access|enough information))",
    re.I,
)
_WORD = re.compile(r"\w+")


def is_refusal(text: str) -> bool:
    """Whether the first 300 characters of a text hold one of the usual English phrases of refusal."""
    return _REFUSAL.search(text[:300]) is not None


def repetition(text: str) -> float:
    """Share of a text's word 4-grams that repeat earlier ones; 0 for fewer than eight words."""
    words = _WORD.findall(text.casefold())
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(words) >= 2 * _GRAM else 0.0


KINDS = {
    "error": "generation failed",
    "empty": "nothing was said",
    "refusal": "the model declines",
    "repetition": "the text repeats itself",
    "truncated": "truncated at the token limit",
    "format": "not in the declared form",
    "label_pair": "another label",
    "missing_field": "a field is missing",
    "hallucinated_field": "a field that should be empty is filled",
    "wrong_value": "a field has a wrong value",
    "wrong_final_answer": "another final answer",
    "wrong_negation": "says no for yes, or yes for no",
    "wrong_facts": "numbers, dates or identifiers differ",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """kind: one of KINDS; detail: the label pair, field or rule."""

    kind: str
    detail: str = ""


def failure_of(prediction: Row, output: AnyOutput) -> Failure | None:
    """The mistake in one answer; None for a correct one. In free texts (without output.extract) only mistakes that rules detect
    count."""
    row = scored_row(prediction, output)
    if row["status"] in ("error", "empty"):
        return Failure(row["status"])
    text = str(row["text"])
    if row.right:
        return None
    if not isinstance(output, LabelsOutput) or row.label is None:
        if is_refusal(text) and not is_refusal(str(row["gold"])):
            return Failure("refusal")
        if repetition(text) >= REPEATED > repetition(str(row["gold"])):
            return Failure("repetition")
    if row["status"] == "truncated":
        return Failure("truncated")
    if row.broken_rules:
        return Failure("format", _form_detail(row))
    if isinstance(output, LabelsOutput):
        return Failure("label_pair", f"{row['gold']} → {row.label or INVALID}")
    return _wrong_json(row) if isinstance(output, JsonOutput) else _wrong_text(row, output)


def _form_detail(row: ScoredRow) -> str:
    text, rule, output = str(row["text"]), row.broken_rules[0], row.output
    if isinstance(output, LabelsOutput):
        contained = [label for label in output.labels if label.casefold() in text.casefold()]
        if len(contained) == 1:
            return f"a {'' if contained[0] == row['gold'] else 'wrong '}label with something around it"
        return "several labels at once" if contained else "no label at all"
    if isinstance(output, JsonOutput) and rule == "not_json" and row.json.same:
        return "right once repaired"
    return rule


def _wrong_json(row: ScoredRow) -> Failure:
    extraction = row.json
    mistakes: list[tuple[str, str]] = []
    for field in sorted({*extraction.claimed, *extraction.gold}):
        answer, gold = extraction.claimed.get(field, Counter()), extraction.gold.get(field, Counter())
        if answer != gold:
            kind = "wrong_value" if gold - answer else "hallucinated_field"
            mistakes.append((kind if answer - gold else "missing_field", field or "(the value)"))
    if not mistakes:  # equal claims: null, "" and [] count as the same
        return Failure("wrong_value", "an empty value of another kind")
    return Failure(*min(mistakes, key=lambda mistake: (list(KINDS).index(mistake[0]), mistake[1])))


def _wrong_text(row: ScoredRow, output: TextOutput) -> Failure | None:
    text, gold = str(row["text"]), str(row["gold"])
    if output.extract:
        return Failure("wrong_final_answer") if final_answer(text, output.extract) is not None else Failure("format")
    stated, expected = facts(text), facts(gold)
    if stated == expected:
        return Failure("empty") if _WORD.search(gold) and not _WORD.search(text) else None
    kinds = sorted({kind for kind, _ in (stated - expected) + (expected - stated)})
    if kinds == ["negation"]:
        return Failure("wrong_negation")
    return Failure("wrong_facts", next(kind for kind in kinds if kind != "negation"))
