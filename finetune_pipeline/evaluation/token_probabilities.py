"""The probability of a written answer, and of each field of a JSON answer, from the probabilities of its tokens, or of its fields
where a simple model puts it together.

Under a schema they are those of the masked distribution: a token's probability among the tokens that the schema allows. Quotes and
keys then have nearly 1: not quite, since the same text can be written in other tokens, each of which has its share.
"""

import math
from collections.abc import Iterator
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from finetune_pipeline.data.answer_rules import NOT_JSON, STRICT, strict
from finetune_pipeline.models.inference.generated import Answer

FORM = ""
"""Key of the probability of everything but values: keys, punctuation, the end. It decides which fields there are."""


def answer_probability(answer: Answer) -> float | None:
    """Return the product of the probabilities of an answer's tokens, or of its fields, which a simple model fits apart from each
    other; None for an unfinished one, or from an engine or model without them."""
    if answer.status != "ok":
        return None
    if answer.field_shares:
        return math.prod(answer.field_shares.values()) or None
    if not answer.log_probabilities:
        return None
    return math.exp(math.fsum(answer.log_probabilities))


def field_probabilities(answer: Answer, tokenizer: Any) -> dict[str, float]:
    """Return the probability of each field's value by its dotted path, and of FORM. A list is one field. Empty for an answer that
    is not JSON, or without probabilities. Those of a simple model's answer have no FORM: a field that it leaves out has its own."""
    if answer.field_shares:
        return answer.field_shares
    if tokenizer is None or answer_probability(answer) is None or strict(answer.text) is NOT_JSON:
        return {}
    spans = list(_value_spans(answer.text, _after_blanks(answer.text, 0), ""))
    logs: dict[str, list[float]] = {FORM: [], **{path: [] for path, _, _ in spans}}
    for (start, end), log in zip(_token_spans(answer, tokenizer), answer.log_probabilities, strict=True):
        logs[next((path for path, first, last in spans if start < last and end > first), FORM)].append(log)
    return {path: math.exp(math.fsum(of_path)) for path, of_path in logs.items()}


def _token_spans(answer: Answer, tokenizer: Any) -> Iterator[tuple[int, int]]:
    """Yield where each token stands in the text. A token that ends the answer stands behind it."""
    start = 0
    for count in range(1, len(answer.new_ids) + 1):
        end = min(len(tokenizer.decode(answer.new_ids[:count])), len(answer.text))
        last = count == len(answer.new_ids)
        yield (len(answer.text), len(answer.text)) if last else (start, max(start, end))
        start = max(start, end)


def _after_blanks(text: str, place: int) -> int:
    while text[place : place + 1].isspace():
        place += 1
    return place


def _value_spans(text: str, place: int, path: str) -> Iterator[tuple[str, int, int]]:
    """Yield (path, start, end) of every value in valid JSON that is no object."""
    if text[place] != "{":
        yield path, place, STRICT.raw_decode(text, place)[1]
        return
    end = STRICT.raw_decode(text, place)[1]
    place = _after_blanks(text, place + 1)
    while text[place] != "}" and place < end:
        key, place = scanstring(text, place + 1)
        place = _after_blanks(text, place)
        start = _after_blanks(text, place + 1)
        yield from _value_spans(text, start, f"{path}.{key}" if path else key)
        place = _after_blanks(text, STRICT.raw_decode(text, start)[1])
        if text[place] == ",":
            place = _after_blanks(text, place + 1)
