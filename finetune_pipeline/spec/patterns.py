"""Regular expressions from users: refuses those that could run forever, and matches within a time limit.

The texts are untrusted: they are answers from models and logs. The `regex` package supports the syntax of `re`, and stops
at a timeout.
"""

import re
from contextlib import suppress
from math import prod

import regex

LIMIT_S = 1.0
"""CPU seconds for one text. Normal patterns take microseconds."""
_LONGEST = 5_000
_MOST_REPEATS = 100_000
_COUNT = re.compile(r"\{(\d*+),?(\d*+)\}")
_PLAIN = re.compile(r"[^\\\[\](){}.*+?^$|]*")


def search(pattern: str, text: str) -> bool:
    """Whether the pattern matches anywhere in the text; False after a timeout."""
    with suppress(TimeoutError):
        return regex.search(pattern, text, timeout=LIMIT_S) is not None
    return False


def full_match(pattern: str, text: str) -> bool:
    """Whether the pattern matches the whole text (`.` is any character); False after a timeout."""
    with suppress(TimeoutError):
        return regex.fullmatch(pattern, text, regex.DOTALL, timeout=LIMIT_S) is not None
    return False


def last_group(pattern: str, text: str) -> str | None:
    """Return the first group of the last match, "" if it did not participate; None without a match or after a timeout."""
    with suppress(TimeoutError):
        if matches := list(regex.finditer(pattern, text, timeout=LIMIT_S)):
            return matches[-1].group(1) or ""
    return None


def pattern_problem(pattern: str) -> str | None:
    """Return why a pattern cannot be used, or None. Exponential patterns are found by trying them on 40 equal characters of each
    kind that do not let the pattern end in a match."""
    if len(pattern) > _LONGEST:
        return f"it has {len(pattern)} characters, but at most {_LONGEST} are allowed"
    counts = [max(hit, key=len) for hit in _COUNT.findall(pattern)]
    if any(len(count) > 6 for count in counts) or prod(int(c) for c in counts if c.strip("0")) > _MOST_REPEATS:
        return f"its counts in {{ }} multiply to more than {_MOST_REPEATS}"
    try:
        regex.compile(pattern)
    except (regex.error, RecursionError, ValueError, OverflowError) as error:
        return f"it is not a regular expression: {error}"
    start = _PLAIN.match(pattern)
    letters = dict.fromkeys(["a", "A", "0", " ", "-", *re.findall(r"\w", pattern)[:20]])
    for letter in letters:
        try:
            regex.search(pattern, f"{start[0] if start else ''}{letter * 40}\0", timeout=LIMIT_S)
        except TimeoutError:
            return f"on {letter * 3!r}… (40 characters) it takes more than {LIMIT_S:g} s, since it can match them in too many ways"
    return None
