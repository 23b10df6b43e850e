"""Decides whether two answers are the same. Metrics use it for answers and references, cleaning for answers to one question."""

import re
from decimal import Decimal, InvalidOperation

from finetune_pipeline.data.answer_rules import NOT_JSON, STRICT, canonical, final_answer, is_too_deep, strict
from finetune_pipeline.spec.outputs import AnyOutput, JsonOutput, LabelsOutput

_NUMBER = re.compile(r"[-+]?([$€£]?)\s?[-+]?(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)(?:\.\d+)?%?")
"""Commas separate thousands (in India also hundred thousands). 1,2 is no number: it may be two, or use a decimal comma."""


def same_answer(a: str, b: str, output: AnyOutput) -> bool:
    """Whether two answers are the same.

    Labels: letter by letter. JSON: the same value, whatever the order of keys and of unordered lists. Text: the same text, calls
    of tools by their content; with `extract`, the same final answer. Surrounding whitespace does not count.
    """
    if isinstance(output, LabelsOutput | JsonOutput) or not output.extract:
        return answer_key(a, output) == answer_key(b, output)
    first, second = final_answer(a, output.extract), final_answer(b, output.extract)
    return first is not None and second is not None and same_final_answer(first, second)


def answer_key(text: str, output: AnyOutput) -> str:
    """Return a text that is equal for the same answers, except for final answers with and without a currency sign."""
    text = text.strip()
    if isinstance(output, LabelsOutput):
        return text
    if isinstance(output, JsonOutput):
        value = strict(text)
        return text if value is NOT_JSON else canonical(value, frozenset(output.unordered))
    if output.extract:
        final = final_answer(text, output.extract)
        number = None if final is None else _as_number(final)
        return text if final is None else final if number is None else f"{number[0]}{_plain(number[1])}"
    parts = _texts_and_calls(text)
    return text if parts is None else "\0".join(parts)


def _texts_and_calls(text: str) -> list[str] | None:
    """Return the stripped texts between tool calls and the calls in canonical form, alternating. None without a call, or if a JSON
    object is no call ({"name": …, "arguments" or "parameters": {…}})."""
    parts, position, any_call = [], 0, False
    while (start := text.find("{", position)) >= 0:
        try:
            value, end = STRICT.raw_decode(text, start)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or "name" not in value or not ({"arguments", "parameters"} & set(value)):
            return None
        if is_too_deep(value):
            return None
        any_call = True
        parts += [text[position:start].strip(), canonical(value)]
        position = end
    return [*parts, text[position:].strip()] if any_call else None


def same_final_answer(a: str, b: str) -> bool:
    """Whether two final answers are equal: as numbers if both are (1,000 is 1000.0; $5 is 5, but not £5), else as
    texts."""
    first, second = _as_number(a), _as_number(b)
    if first is None or second is None:
        return a.strip() == b.strip()
    (currency_a, number_a), (currency_b, number_b) = first, second
    return number_a == number_b and (currency_a == currency_b or not currency_a or not currency_b)


def _plain(number: Decimal) -> str:
    """Return the same text for equal numbers, with all digits: Decimal.normalize would round to 28."""
    digits = f"{number:f}"
    digits = digits.rstrip("0").rstrip(".") if "." in digits else digits
    return digits if number else "0"


def _as_number(text: str) -> tuple[str, Decimal] | None:
    """Return the currency sign (or "") and the number; None if the text is no number."""
    stripped = text.strip().rstrip(".,")
    match = _NUMBER.fullmatch(stripped)
    if match is None:
        return None
    try:
        return match[1], Decimal(re.sub(r"[$€£,\s]", "", stripped).rstrip("%"))
    except InvalidOperation:
        return None
