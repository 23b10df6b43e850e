"""Classifies wrong answers by rule, and detects degenerate text without a reference."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from finetune_pipeline.data.answer_rules import final_answer, form_problems
from finetune_pipeline.evaluation.correctness import INVALID, Row, answer_of, is_right, read_json
from finetune_pipeline.evaluation.metrics.facts import facts
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
_FUNCTION_WORDS = {
    "en": "the and is are was with for that this have not you your will from has it of to in on be we",
    "de": "der die das und ist nicht mit für ein eine auf den von zu dem ich sie wir wird haben bitte auch im",
    "fr": "le la les et est pas avec pour une dans des que vous nous sur du au je qui sont votre être ce",
    "es": "el los las y es no con para una que por del su se al lo como más pero sus está este tiene",
    "it": "il lo gli e è non con per una che di del della sono nel alla più questo si anche ha come",
    "pt": "o os as e é não com para uma que por do da em no na seu mais como foi você está ao",
    "nl": "de het een en is niet met voor van op te dat die zijn naar wij ook aan bij er u worden",
}
_LANGUAGES = {name: frozenset(words.split()) for name, words in _FUNCTION_WORDS.items()}


def is_refusal(text: str) -> bool:
    """Whether the first 300 characters of a text hold one of the usual English phrases of refusal."""
    return _REFUSAL.search(text[:300]) is not None


def repetition(text: str) -> float:
    """Share of a text's word 4-grams that repeat earlier ones; 0 for fewer than eight words."""
    words = _WORD.findall(text.casefold())
    grams = [tuple(words[i : i + _GRAM]) for i in range(len(words) - _GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(words) >= 2 * _GRAM else 0.0


def script(text: str) -> str | None:
    """The script of most letters (LATIN, CYRILLIC, CJK …); None without letters."""
    scripts = Counter(unicodedata.name(c, "?").split()[0] for c in text[:1000] if c.isalpha())
    return scripts.most_common(1)[0][0] if scripts else None


def language(text: str) -> str | None:
    """The language of a Latin text by its function words; None if there are too few, or two languages are close."""
    words = Counter(_WORD.findall(text.casefold()))
    hits = sorted(((sum(words[w] for w in common), name) for name, common in _LANGUAGES.items()), reverse=True)
    enough = hits[0][0] >= 3 and hits[0][0] >= 0.12 * sum(words.values())
    return hits[0][1] if enough and hits[0][0] >= 1.5 * hits[1][0] else None


def other_language(prediction: str, reference: str) -> bool:
    """Whether a prediction is surely written in another script or language than its reference."""
    a, b = script(prediction), script(reference)
    if a and b and a != b and sum(c.isalpha() for c in prediction) >= 8:
        return True
    written, expected = language(prediction), language(reference)
    return written is not None and expected is not None and written != expected


KINDS = {
    "error": "generation failed",
    "empty": "nothing was said",
    "refusal": "the model declines",
    "repetition": "the text repeats itself",
    "truncated": "truncated at the token limit",
    "wrong_language": "another language than the right answer",
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


def failure_of(row: Row, output: AnyOutput) -> Failure | None:
    """The mistake in one answer; None for a correct one. In free texts (without output.extract) only mistakes that rules detect
    count."""
    if row["status"] in ("error", "empty"):
        return Failure(row["status"])
    text = str(row["text"])
    if is_right(row, output):
        return None
    if not isinstance(output, LabelsOutput) or row["status"] == "truncated" or answer_of(row, output.labels) is None:
        if is_refusal(text) and not is_refusal(str(row["gold"])):
            return Failure("refusal")
        if repetition(text) >= REPEATED > repetition(str(row["gold"])):
            return Failure("repetition")
    if row["status"] == "truncated":
        return Failure("truncated")
    if isinstance(output, TextOutput) and other_language(text, str(row["gold"])):
        return Failure("wrong_language")
    if problems := form_problems(text, output):
        return Failure("format", _form_detail(text, problems[0][0], row, output))
    if isinstance(output, LabelsOutput):
        return Failure("label_pair", f"{row['gold']} → {answer_of(row, output.labels) or INVALID}")
    return _wrong_json(row, output) if isinstance(output, JsonOutput) else _wrong_text(row, output)


def _form_detail(text: str, rule: str, row: Row, output: AnyOutput) -> str:
    if isinstance(output, LabelsOutput):
        contained = [label for label in output.labels if label.casefold() in text.casefold()]
        if len(contained) == 1:
            return f"a {'' if contained[0] == row['gold'] else 'wrong '}label with something around it"
        return "several labels at once" if contained else "no label at all"
    if isinstance(output, JsonOutput) and rule == "not_json" and read_json(row, output).same:
        return "right once repaired"
    return rule


def _wrong_json(row: Row, output: JsonOutput) -> Failure:
    extraction = read_json(row, output)
    mistakes: list[tuple[str, str]] = []
    for field in sorted({*extraction.claimed, *extraction.gold}):
        answer, gold = extraction.claimed.get(field, Counter()), extraction.gold.get(field, Counter())
        if answer != gold:
            kind = "wrong_value" if gold - answer else "hallucinated_field"
            mistakes.append((kind if answer - gold else "missing_field", field or "(the value)"))
    if not mistakes:  # equal claims: null, "" and [] count as the same
        return Failure("wrong_value", "an empty value of another kind")
    return Failure(*min(mistakes, key=lambda mistake: (list(KINDS).index(mistake[0]), mistake[1])))


def _wrong_text(row: Row, output: TextOutput) -> Failure | None:
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
