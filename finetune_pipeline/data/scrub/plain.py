"""One form for characters that look alike, so that one set of shapes finds numbers written anywhere."""

from __future__ import annotations

import re

# Full-width forms (U+FF01..FF5E), blanks that do not break, hyphens and dashes that are not the ASCII one.
_ODD = re.compile("[\u00a0\u2007\u2009\u202f\u3000\u2010-\u2015\u2212\uff01-\uff5e]")
_BLANKS = "\u00a0\u2007\u2009\u202f\u3000"
FULL_WIDTH = b"\xef\xbc"
"""How the full-width signs, figures and capitals (U+FF01..FF3F) begin in UTF-8."""


def plain_form(text: str) -> str:
    """The text with such characters as their ASCII likeness, each in its place: both texts have the same positions."""
    return _ODD.sub(_likeness, text)


def lower_form(text: str) -> str:
    """The text in lower case, each character in its place (a few letters have a lower form of two: they stay)."""
    low = text.lower()
    if len(low) == len(text):
        return low
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _likeness(hit: re.Match[str]) -> str:
    char = hit[0]
    if char in _BLANKS:
        return " "
    return chr(ord(char) - 0xFEE0) if char > "\uff00" else "-"
