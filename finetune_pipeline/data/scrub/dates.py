"""Dates of birth: dates after a word that says so."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MONTHS = (
    r"jan(?:uary|uar|vier|eiro|uari)?|feb(?:ruary|ruar|ruari)?|f[eé]v(?:rier|ereiro)?|febrero|m[aä]r(?:ch|z|s|[cç]o|zo)?|maart|mrt"
    r"|apr(?:il|ile)?|avr(?:il)?|abr(?:il)?|ma[iy]|mayo|maio|mei|june?|juni?|juin|junio|junho|july?|juli?|juillet|julio|julho"
    r"|aug(?:ust|ustus)?|ao[uû]t|agosto|ago|sept?(?:ember|embre)?|set(?:embro)?|o[ck]t(?:ober|obre)?|out(?:ubro)?|nov(?:ember|embre|embro)?"
    r"|de[cz](?:ember|embre|embro)?|d[eé]c(?:embre)?|dic(?:iembre)?|enero"
)
_DATE = (
    r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.](?:[0-9]{4}|[0-9]{2})"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|er|\.|º)?\s(?:of\s|de\s)?(?:{_MONTHS})\.?,?\s(?:de\s)?[0-9]{{4}}"
    rf"|(?:{_MONTHS})\.?\s[0-9]{{1,2}}(?:st|nd|rd|th)?,?\s[0-9]{{4}}|[0-9]{{4}}\s?年\s?[0-9]{{1,2}}\s?月\s?[0-9]{{1,2}}\s?日"
)
_BORN = re.compile(
    r"(?i)(?:(?<![^\W_])(?:(?:date|day)[\s_-]of[\s_-]birth|birth[\s_-]?da(?:te|y)|dob|d\.o\.b\.?|born|geboren|geb\.|geb(?:urts|\.)?-?\s?(?:datum|tag)"
    r"|n[eé]e?(?:\(e\))?\sle|naissance|nac[ií](?:d[oa])?|nacimiento|fecha\sde\snac\.?|geboortedatum|urodz\w+|nascimento|nascid[oa]"
    r"|data\sdi\snascita|född|født)|生年月日|誕生日|出生日期)"
    rf"(?:[\W_]{{1,3}}(?:is|was|on|am|the|le|el|em|il|op|dnia|den|le|es|ist|est|é|to|in))*[\W_]{{0,4}}?(?:は)?(?P<date>{_DATE})(?!\w)"
)


def birth_in(low: str, ascii_only: bool) -> bool:
    """Whether a text in lower case has a word of birth."""
    return (
        "birth" in low
        or "born" in low
        or "dob" in low
        or "d.o.b" in low
        or "geb" in low
        or "naci" in low
        or "nasc" in low
        or "naiss" in low
        or "urodz" in low
        or (
            not ascii_only
            and ("né" in low or "nací" in low or "født" in low or "född" in low or "生" in low or "誕" in low)
        )
    )


def birth_dates(text: str) -> Iterator[tuple[int, int]]:
    """Places of full dates (day, month, year) that are said to be a birth's; ``(born 3 May 1881)``, as reference works
    have it behind a name, is none.
    """
    for hit in _BORN.finditer(text):
        if text[max(0, hit.start() - 2) : hit.start()].rstrip()[-1:] != "(":
            yield hit.span("date")
