"""Marks where an answer differs from the reference: words and characters of a text, fields of JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from finetune_pipeline.data.answer_rules import NOT_JSON, canonical, strict

MOST_COMPARED = 250_000
"""Product of two texts' words up to which they are aligned; of longer ones the middle between equal ends is marked."""
_ALIKE = 0.5
"""Similarity from which single characters of two words are marked, and not the words."""
_WORD = re.compile(r"\w+|\W")


class Part(NamedTuple):
    """A piece of a text, and whether it differs from the other text."""

    differs: bool
    text: str


class Marked(str):
    """A text with its parts; pages highlight those that differ."""

    parts: tuple[Part, ...]

    @classmethod
    def of(cls, parts: Iterator[Part] | list[Part]) -> Marked:
        joined: list[Part] = []
        for part in parts:
            if joined and joined[-1].differs == part.differs:
                joined[-1] = Part(part.differs, joined[-1].text + part.text)
            elif part.text:
                joined.append(part)
        marked = cls("".join(part.text for part in joined))
        marked.parts = tuple(joined)
        return marked


def mark_differences(answer: str, reference: str) -> tuple[Marked, Marked]:
    """Return answer and reference with their differences marked. If both are JSON objects or lists, fields are compared, and the
    order of keys and of list items does not count unless nothing else differs."""
    value, wanted = strict(answer), strict(reference)
    if isinstance(value, dict | list) and type(value) is type(wanted):
        marked = Marked.of(_json_parts(value, wanted)), Marked.of(_json_parts(wanted, value))
        if any(part.differs for text in marked for part in text.parts):
            return marked
    given, right = _text_parts(answer, reference)
    return Marked.of(given), Marked.of(right)


def _json_parts(value: Any, other: Any) -> Iterator[Part]:
    if isinstance(value, dict) and isinstance(other, dict):
        yield Part(False, "{")
        for i, (key, item) in enumerate(value.items()):
            yield Part(False, ", " if i else "")
            yield Part(key not in other, f"{_written(key)}: ")
            yield from _json_parts(item, other.get(key, NOT_JSON))
        yield Part(False, "}")
    elif isinstance(value, list) and isinstance(other, list):
        unmatched = Counter(map(canonical, other))
        yield Part(False, "[")
        for i, item in enumerate(value):
            yield Part(False, ", " if i else "")
            if unmatched[canonical(item)]:
                unmatched[canonical(item)] -= 1
                yield Part(False, _written(item))
            else:
                yield from _json_parts(item, other[i] if len(value) == len(other) else NOT_JSON)
        yield Part(False, "]")
    else:
        yield Part(other is NOT_JSON or canonical(value) != canonical(other), _written(value))


def _written(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _text_parts(first: str, second: str) -> tuple[list[Part], list[Part]]:
    return _aligned(_WORD.findall(first), _WORD.findall(second), by_letters=True)


def _aligned(first: list[str], second: list[str], by_letters: bool) -> tuple[list[Part], list[Part]]:
    start = 0
    while start < min(len(first), len(second)) and first[start] == second[start]:
        start += 1
    end = 0
    while end < min(len(first), len(second)) - start and first[-1 - end] == second[-1 - end]:
        end += 1
    a, b = first[start : len(first) - end], second[start : len(second) - end]
    head, tail = Part(False, "".join(first[:start])), Part(False, "".join(first[len(first) - end :]))
    if len(a) * len(b) > MOST_COMPARED:
        return [head, Part(True, "".join(a)), tail], [head, Part(True, "".join(b)), tail]
    parts: tuple[list[Part], list[Part]] = ([head], [head])
    for kind, a_from, a_to, b_from, b_to in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        pair = "".join(a[a_from:a_to]), "".join(b[b_from:b_to])
        if kind == "replace" and by_letters and SequenceMatcher(None, *pair, autojunk=False).ratio() >= _ALIKE:
            inner = _aligned(list(pair[0]), list(pair[1]), by_letters=False)
        else:
            inner = [Part(kind != "equal", pair[0])], [Part(kind != "equal", pair[1])]
        for side, more in zip(parts, inner, strict=True):
            side.extend(more)
    for side in parts:
        side.append(tail)
    return parts
