"""The forms an answer can have: how it ends and begins, what it is wrapped in, which marks, script and language it has.

Every function gives the name of a form, or None where the question does not arise (the case of the first letter of an
answer that begins with a digit).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_CLOSERS = "\"'”’»)]}*_` "
_SENTENCE = ".!?…。！？؟।"
_OTHER_MARKS = ",;:、，；："
_FENCED = re.compile(r"^(```|~~~)[^\n]*\n.*\n\1\s*$", re.DOTALL)
_MARKS = {
    "code fence": (1, re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)),
    "heading": (1, re.compile(r"^#{1,6}[ \t]+\S", re.MULTILINE)),
    "bullets": (1, re.compile(r"^[ \t]*[-*•][ \t]+\S", re.MULTILINE)),
    "numbered list": (2, re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+\S", re.MULTILINE)),
    "table": (2, re.compile(r"^[ \t]*\|[^\n]*\|[ \t]*$", re.MULTILINE)),
    "bold": (1, re.compile(r"(?:\*\*|__)[^*_\n]+(?:\*\*|__)")),
}
_BULLET = re.compile(r"^[ \t]*([-*•])[ \t]+\S", re.MULTILINE)
_LIST_LINE = re.compile(r"^\s*([-*•]|\d{1,3}[.)]|\|)")
_QUOTES = {('"', '"'), ("'", "'"), ("“", "”"), ("„", "“"), ("«", "»"), ("`", "`"), ("‘", "’")}
_LEAD_IN = re.compile(
    r"^(sure|certainly|of course|absolutely|great question|as an ai\b|i'?d be (?:happy|glad)|i'?m sorry, but|"
    r"thank you for|here(?:'s| is| are) (?:the|a|an|your|some)\b|the answer is)",
    re.IGNORECASE,
)
_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "HANGUL", "HIRAGANA", "KATAKANA", "CJK",
            "THAI", "BENGALI", "TAMIL", "ARMENIAN", "GEORGIAN")  # fmt: skip
# function words that are common in one of these languages and rare in the others
_FUNCTION_WORDS = {
    "English": "the of and to is that it was with are this be you for have from not they which",
    "German": "der die und das ist nicht ein eine zu mit den sie ich von auf dem für auch werden sich",
    "French": "le la les et des est une dans pour que qui pas vous du sur avec ce sont au nous",
    "Spanish": "el los las y que en una por con para es del se lo como más pero su al está",
    "Italian": "il di che è per una sono non con del della gli le si anche più come nel da ma",
    "Portuguese": "os uma não em para com do da que é você se dos mais como ao mas foi seu são",
    "Dutch": "het een van en is niet dat op te zijn voor met aan er ook maar om wordt deze bij",
}
_LANGUAGE_OF: dict[str, list[str]] = {}
for _language, _words in _FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGE_OF.setdefault(_word, []).append(_language)


def is_fenced(text: str) -> bool:
    """Whether the whole answer is one code block."""
    return bool(_FENCED.match(text.strip()))


def final_mark(text: str) -> str | None:
    """How prose ends, closing quotes and brackets aside. Not asked of code blocks and of answers that end in a list."""
    stripped = text.strip()
    if not stripped or is_fenced(stripped) or _LIST_LINE.match(stripped.rsplit("\n", 1)[-1]):
        return None
    last = stripped.rstrip(_CLOSERS)[-1:]
    if not last:
        return None
    return "sentence mark" if last in _SENTENCE else "comma, semicolon or colon" if last in _OTHER_MARKS else "no mark"


def first_letter(text: str) -> str | None:
    """Capital or small first letter, or capitals throughout. Not asked when the answer begins with no cased letter."""
    first = next((c for c in text.lstrip(" \t\r\n\"'“„«*_`([#-") if not c.isspace()), "")
    if first.lower() == first.upper():
        return None
    if text.isupper() and sum(c.isupper() for c in text[:200]) > 1:
        return "ALL CAPITALS"
    return "small letter" if first.islower() else "capital letter"


def markdown(text: str) -> str:
    """Which Markdown elements an answer has."""
    return " + ".join(n for n, (least, of) in _MARKS.items() if len(of.findall(text)) >= least) or "plain text"


def bullet_mark(text: str) -> str | None:
    """The sign in front of the points of a list."""
    signs = sorted(set(_BULLET.findall(text)))
    return " and ".join(f"“{s}”" for s in signs) if signs else None


def wrapping(text: str) -> str:
    """Whether the whole answer stands in quotes or in a code block."""
    stripped = text.strip()
    if is_fenced(stripped):
        return "in a code block"
    if len(stripped) > 1 and (stripped[0], stripped[-1]) in _QUOTES and stripped[0] not in stripped[1:-1]:
        return f"in {stripped[0]}…{stripped[-1]}"
    return "bare"


def outer_blanks(text: str) -> str:
    """Blanks and line breaks around the answer."""
    before, after = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    found = [
        ("line break " if "\n" in blanks else "blank ") + where
        for blanks, where in ((before, "in front"), (after, "at the end"))
        if blanks
    ]
    return " and ".join(found) or "none"


def line_ends(text: str) -> str | None:
    """How lines end; not asked of one line."""
    if "\n" not in text and "\r" not in text:
        return None
    return "\\r\\n" if "\r\n" in text else "\\r" if "\r" in text else "\\n"


def lead_in(text: str) -> str:
    """Whether the answer opens with a phrase of politeness in place of the answer (English)."""
    return "opens with a phrase (“Sure, here is …”)" if _LEAD_IN.match(text.lstrip()) else "straight to the answer"


@lru_cache(maxsize=65_536)
def _script_of(char: str) -> str:
    name = unicodedata.name(char, "")
    return next((s for s in _SCRIPTS if name.startswith(s)), "other script")


def scripts(text: str) -> dict[str, int]:
    """Letters per script (Latin, Cyrillic, Han, …)."""
    if text.isascii():
        letters = sum(map(str.isalpha, text))
        return {"Latin": letters} if letters else {}
    counts: dict[str, int] = {}
    for char in text:
        if char.isalpha():
            name = _script_of(char)
            counts[name] = counts.get(name, 0) + 1
    renamed: dict[str, int] = {}
    for name, n in counts.items():
        plain = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese"}.get(name, name.capitalize())
        renamed[plain] = renamed.get(plain, 0) + n
    if "Japanese" in renamed and "Han" in renamed:
        renamed["Japanese"] += renamed.pop("Han")
    return renamed


def script(text: str) -> str | None:
    """The script of an answer; two when the second has at least a fifth of the letters. None without letters."""
    counts = scripts(text)
    if not counts:
        return None
    total = sum(counts.values())
    top = sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))
    return " + ".join(sorted(name for i, (name, n) in enumerate(top) if i == 0 or n >= total / 5))


def mixed_word(text: str) -> str:
    """Whether a word mixes Latin with Cyrillic letters, which look alike. (Greek letters do stand in Latin words: μm.)"""
    if text.isascii():
        return "none"
    for word in text.split():
        if not word.isascii():
            found = {_script_of(c) for c in word if c.isalpha()}
            if {"LATIN", "CYRILLIC"} <= found:
                return "a word of two scripts"
    return "none"


def language(text: str) -> str | None:
    """A guess by function words, for texts of six words and more; None when they do not tell.

    At least three function words and 15% of all words must speak for one language, half again as many as for any other.
    """
    words = text.casefold().split()
    if len(words) < 6:
        return None
    hits: dict[str, int] = {}
    for word in words:
        for name in _LANGUAGE_OF.get(word.strip(".,;:!?\"'()"), ()):
            hits[name] = hits.get(name, 0) + 1
    if not hits:
        return None
    (best, n), *rest = sorted(hits.items(), key=lambda kv: (-kv[1], kv[0]))
    second = rest[0][1] if rest else 0
    return best if n >= max(3, 0.15 * len(words)) and n >= 1.5 * second else None
