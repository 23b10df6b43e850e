"""Telephone numbers: with a country's code, in the usual national groups, or bare after a word such as `call`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_pipeline.data.scrub.context import (
    NUMBER_WORD,
    PHONE_AFTER,
    PHONE_LOOSE,
    PHONE_TIGHT,
    UNIT_AFTER,
    before,
)

_END = r"(?![\w]|[-.:][0-9])"
_PLUS = re.compile(rf"(?a)(?<![\w+])\+[0-9](?:[ ./()-]{{0,3}}[0-9]){{6,14}}{_END}")
_ZEROS = re.compile(rf"(?a)(?<![\w.+/-])(?<![0-9][ :])00[ ]?[1-9](?:[ ./()-]{{0,3}}[0-9]){{7,13}}{_END}")
_US = re.compile(
    r"(?a)(?<![\w.+/-])(?<![0-9]:)(?:1[-. ])?(?:\([2-9][0-9]{2}\)[ -]?[0-9]{3}[-. ][0-9]{4}"
    rf"|[2-9][0-9]{{2}}(?P<gap>[-. ])[0-9]{{3}}(?P=gap)[0-9]{{4}}){_END}"
)
_NATIONAL = re.compile(
    r"(?a)(?<![\w.+/-])(?<![0-9][ :])(?:\(0\)[ ]?[1-9][0-9]{0,4}|\(0[0-9]{1,5}\)|0[1-9][0-9]{0,4})"
    rf"(?:(?:[ /-]| / )[0-9]{{2,8}}){{1,5}}(?:-[0-9])?{_END}"
)
_DOTTED = re.compile(rf"(?a)(?<![\w.+/-])(?<![0-9][ :])0[1-9](?:\.[0-9]{{2}}){{4}}{_END}")
_AREA = re.compile(rf"(?a)(?<![\w.+/-])(?<![0-9][ :])\([1-9][0-9]\)[ ]?[0-9]{{4,5}}-[0-9]{{4}}{_END}")  # Brazil
_FREE = re.compile(rf"(?a)(?<![\w.+/-])(?<![0-9][ :])1[38]00 [0-9]{{3}} [0-9]{{3}}{_END}")  # Australia
_BARE = re.compile(rf"(?a)(?<![\w.+/-])(?<![0-9][ :])\(?[0-9](?:[ -]?\)?[ -]?[0-9]){{6,14}}{_END}")
_EXTENSION = re.compile(r"(?i)[ ,]{0,2}(?:ext(?:ension)?\.?|x|durchwahl|poste|anexo|ramal)[ :]{0,2}[0-9]{1,6}(?!\w)")
_UNIX_TIME = re.compile(r"1[5-9][0-9]{8}(?:[0-9]{3})?")


def phones(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places of telephone numbers among the digits from start to end, extensions included."""
    low, high = max(0, start - 2), min(len(text), end + 2)
    for hit in _PLUS.finditer(text, low, high):
        if possible(hit[0]):
            yield _with_extension(text, hit)
    for pattern in (_US, _NATIONAL, _ZEROS, _DOTTED, _AREA, _FREE):
        for hit in pattern.finditer(text, low, high):
            if 9 <= sum(c.isdigit() for c in hit[0]) <= 15 and _grouped_fits(text, pattern, hit):
                yield _with_extension(text, hit)
    for hit in _BARE.finditer(text, low, high):
        if _bare_fits(text, hit):
            yield _with_extension(text, hit)


def _grouped_fits(text: str, pattern: re.Pattern[str], hit: re.Match[str]) -> bool:
    """A number in groups is a telephone's unless the words before call it another; three groups with blanks between
    them may be any three numbers, and need a word such as `call`; after 00 the country must have numbers of this length.
    """
    words = before(text, hit.start())
    if PHONE_TIGHT.search(words):
        return True
    if NUMBER_WORD.search(words) or (pattern is _ZEROS and not possible("+" + hit[0].lstrip("0 "))):
        return False
    return pattern is not _US or hit["gap"] != " " or bool(PHONE_LOOSE.search(words))


def _bare_fits(text: str, hit: re.Match[str]) -> bool:
    """A number without the groups of telephone numbers is one only by the words around it."""
    digits = re.sub(r"[^0-9]", "", hit[0])
    if _UNIX_TIME.fullmatch(hit[0]) or UNIT_AFTER.match(text, hit.end()) or len(set(digits)) == 1:
        return False
    words = before(text, hit.start())
    if PHONE_TIGHT.search(words):
        return not (digits.endswith("0000") and digits == hit[0])
    if NUMBER_WORD.search(words):
        return False
    return bool((len(digits) >= 9 and PHONE_LOOSE.search(words)) or PHONE_AFTER.match(text, hit.end()))


def possible(number: str) -> bool:
    """Whether a number with its country's code has a length that exists there (libphonenumber's tables)."""
    import phonenumbers

    try:
        return bool(phonenumbers.is_possible_number(phonenumbers.parse(number.replace("(0)", ""))))
    except phonenumbers.NumberParseException:
        return False


def _with_extension(text: str, hit: re.Match[str]) -> tuple[int, int]:
    extension = _EXTENSION.match(text, hit.end())
    return hit.start(), extension.end() if extension else hit.end()
