"""The forms of answers that are JSON: whole or broken, layout, keys, their order and style, types of values."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

KEYS = 30
"""Keys looked at, of one answer and of the set."""
_FENCE = re.compile(r"^```[a-zA-Z]*\s*\n(.*)\n```$", re.DOTALL)
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LOOKS_LIKE = re.compile(r'^(\{\s*["}]|\[\s*(?:[\[{"\]]|-?\d+\s*[,\]]))')
_PYTHON = re.compile(r"^[{\[]\s*\{?\s*'")
_STYLES = {
    "snake_case": re.compile(r"^[a-z0-9]+(_[a-z0-9]+)+$"),
    "UPPER_CASE": re.compile(r"^[A-Z0-9]{2,}(_[A-Z0-9]+)*$"),
    "camelCase": re.compile(r"^[a-z][a-z0-9]*([A-Z][a-z0-9]*)+$"),
    "PascalCase": re.compile(r"^([A-Z][a-z0-9]+)+$"),
    "kebab-case": re.compile(r"^[a-z0-9]+(-[a-z0-9]+)+$"),
    "words with blanks": re.compile(r"^\S+( \S+)+$"),
}
_ONE_WORD = re.compile(r"^[a-z0-9]+$")


@dataclass(frozen=True)
class JsonAnswer:
    """What an answer is, seen as JSON. `raw`: the JSON text; `value`: what it holds, None unless it is sound."""

    form: str
    raw: str = ""
    value: Any = None


def read_json_answer(text: str) -> JsonAnswer:
    """Form of an answer: ``JSON object``, ``JSON list``, either in a code block, ``broken JSON``, Python, or ``text``."""
    stripped = text.strip()
    fence = _FENCE.match(stripped)
    raw = fence.group(1).strip() if fence else stripped
    if not raw.startswith(("{", "[")):
        return JsonAnswer("text")
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        if _PYTHON.match(raw):
            return JsonAnswer("single quotes in place of JSON's")
        return JsonAnswer("broken JSON") if _LOOKS_LIKE.match(raw) else JsonAnswer("text")
    if isinstance(value, list) and fence is None and not _LOOKS_LIKE.match(raw):
        return JsonAnswer("text")
    kind = "JSON object" if isinstance(value, dict) else "JSON list"
    return JsonAnswer(kind + (" in a code block" if fence else ""), raw, value)


def layout(answer: JsonAnswer) -> str | None:
    """Lines, indent and blanks of the JSON text; None where there is nothing to lay out."""
    if answer.value is None or not answer.raw:
        return None
    bare = _STRING.sub('""', answer.raw)
    if "\n" in bare:
        indents = {line[: len(line) - len(line.lstrip())] for line in bare.split("\n")[1:-1] if line.strip()}
        first = min(indents, key=len, default="")
        if "\t" in first:
            return "indented by tabs"
        return f"indented by {len(first)}" if first else "lines without indent"
    marks = re.findall(r"[,:](.?)", bare)
    if not marks:
        return None
    blanks = sum(m == " " for m in marks)
    return (
        "one line, blanks" if blanks == len(marks) else "one line, no blanks" if not blanks else "one line, some blanks"
    )


def key_set(answer: JsonAnswer) -> str | None:
    """The top-level keys, sorted; None unless the answer is an object."""
    return ", ".join(sorted(answer.value)) or "no key" if isinstance(answer.value, dict) else None


def _all_keys(value: Any) -> Iterable[str]:
    stack, seen = [value], 0
    while stack and seen < 1000:
        item = stack.pop()
        seen += 1
        if isinstance(item, dict):
            yield from item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def key_style(answer: JsonAnswer) -> str | None:
    """How keys of more than one word are written; None when there are none."""
    if answer.value is None:
        return None
    found = set()
    for key in _all_keys(answer.value):
        if not _ONE_WORD.match(key):
            found.add(next((name for name, pattern in _STYLES.items() if pattern.match(key)), "another style"))
    return " and ".join(sorted(found)) or None


def usual_order(answers: Sequence[JsonAnswer]) -> dict[tuple[str, str], bool]:
    """For each pair of top-level keys (sorted) that occurs: whether the first mostly stands before the second."""
    before: Counter[tuple[str, str]] = Counter()
    for answer in answers:
        if isinstance(answer.value, dict):
            for a, b in combinations(list(answer.value)[:KEYS], 2):
                before[(a, b) if a < b else (b, a)] += 1 if a < b else -1
    return {pair: n >= 0 for pair, n in before.items()}


def key_order(answer: JsonAnswer, usual: dict[tuple[str, str], bool]) -> str | None:
    """Whether the keys stand in the usual order, or which pair does not; None with fewer than two keys."""
    if not isinstance(answer.value, dict) or len(answer.value) < 2:
        return None
    for a, b in combinations(list(answer.value)[:KEYS], 2):
        first, second = sorted((a, b))
        if usual.get((first, second), True) != (a == first):
            return f"{a} before {b}"
    return "usual order"


_TYPES = ((bool, "true/false"), ((int, float), "number"), (str, "text"), (list, "list"), (dict, "object"))


def type_name(value: Any) -> str | None:
    """JSON type of a value; None for null."""
    return next((name for kind, name in _TYPES if isinstance(value, kind)), None)  # type: ignore[arg-type]


def common_keys(answers: Sequence[JsonAnswer]) -> list[str]:
    """The most frequent top-level keys, at most 30."""
    counts = Counter(key for a in answers if isinstance(a.value, dict) for key in list(a.value)[:KEYS])
    return [key for key, _ in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:KEYS]]
