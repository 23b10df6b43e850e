"""What kind of mistake a wrong answer is, by rule: one kind each, the first that applies in the order of KINDS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.data.answer_rules import final_answer, form_problems
from finetune_pipeline.evaluation.answers import INVALID, answer_of
from finetune_pipeline.evaluation.correctness import is_right, read_json
from finetune_pipeline.evaluation.metrics.facts import fact_score, facts
from finetune_pipeline.evaluation.text_signs import REPEATED, is_refusal, other_language, repetition
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput, TextOutput

Row = Mapping[str, Any]

KINDS = {
    "error": "generation failed",
    "empty": "nothing was said",
    "refusal": "the model declines",
    "repetition": "the text goes in circles",
    "truncated": "cut at the token limit",
    "wrong_language": "another language than the right answer",
    "format": "not in the declared form",
    "label_pair": "another label",
    "missing_field": "a field is left out",
    "hallucinated_field": "a field is filled that should be empty",
    "wrong_value": "a field holds another value",
    "wrong_final_answer": "another final answer",
    "wrong_negation": "says no for yes, or yes for no",
    "wrong_facts": "numbers, dates or identifiers differ",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """kind: one of KINDS; detail: which label pair, field or rule, empty where the kind says all; also: further details
    of the same answer, such as other wrong fields."""

    kind: str
    detail: str = ""
    also: tuple[str, ...] = ()


def failure_of(row: Row, output: AnyOutput) -> Failure | None:
    """The mistake in one answer; None for a right one.

    A free text (without output.extract) that differs from the gold text is no mistake by itself: only what a rule can
    name is.
    """
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
        return Failure("format", _form_detail(text, problems[0][0], row, output), tuple(r for r, _ in problems[1:]))
    if isinstance(output, LabelsOutput):
        return Failure("label_pair", f"{row['gold']} → {answer_of(row, output.labels) or INVALID}")
    return _wrong_json(row, output) if isinstance(output, JsonOutput) else _wrong_text(row, output)


def _form_detail(text: str, rule: str, row: Row, output: AnyOutput) -> str:
    if isinstance(output, LabelsOutput):
        held = [label for label in output.labels if label.casefold() in text.casefold()]
        if len(held) == 1:
            return (
                "a label with something around it"
                if held[0] == row["gold"]
                else "a wrong label with something around it"
            )
        return "several labels at once" if held else "no label at all"
    if isinstance(output, JsonOutput) and rule == "not_json" and read_json(row, output).same:
        return "right once repaired"
    return rule


def _wrong_json(row: Row, output: JsonOutput) -> Failure:
    read = read_json(row, output)
    found: list[tuple[str, str]] = []
    for field in sorted({*read.claimed, *read.gold}):
        said, gold = read.claimed.get(field, Counter()), read.gold.get(field, Counter())
        name = field or "(the value)"
        if said == gold:
            continue
        if not said - gold:
            found.append(("missing_field", name))
        elif not gold - said:
            found.append(("hallucinated_field", name))
        else:
            found.append(("wrong_value", name))
    if not found:  # equal in all that is claimed: null, "" and [] stand for one another
        return Failure("wrong_value", "an empty value of another kind")
    found.sort(key=lambda told: (list(KINDS).index(told[0]), told[1]))
    return Failure(*found[0], also=tuple(f"{kind}: {name}" for kind, name in found[1:]))


def _wrong_text(row: Row, output: TextOutput) -> Failure | None:
    text, gold = str(row["text"]), str(row["gold"])
    if output.extract:
        return Failure("wrong_final_answer") if final_answer(text, output.extract) is not None else Failure("format")
    if fact_score(text, gold) == 1:
        return None
    said, wanted = facts(text), facts(gold)
    kinds = sorted({kind for kind, _ in (said - wanted) + (wanted - said)})
    if kinds == ["negation"]:
        return Failure("wrong_negation")
    return Failure("wrong_facts", next(kind for kind in kinds if kind != "negation"), tuple(kinds))
