"""Normal forms of text, the facts in it, and the similarity measure of the package: the Jaccard similarity |A ∩ B| / |A ∪ B| of
sets of character 5-grams (Jaccard 1912; Broder 1997).

Invisible characters (zero-width and bidi characters, soft hyphens, fillers) could hide an address from scrubbing, and a copy of
a row from the search for duplicates. Both look at the text without them.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Content of a character class: Unicode's Default_Ignorable_Code_Point, and the marks of interlinear notes."""
_ANY = re.compile(f"[{INVISIBLE}]")
# Joiners, variation selectors and directional marks belong to many scripts and to emoji: odd only amid ASCII characters.
# Flags of regions are spelt with tag characters.
_OFTEN_RIGHT = "\u061c\u200c-\u200f\ufe00-\ufe0f"
_FLAGS = "\U0001f3f4\U000e0020-\U000e007f"
_ODD = re.compile(f"(?![{_OFTEN_RIGHT}])(?<![{_FLAGS}])[{INVISIBLE}]|(?<=[!-~])[{_OFTEN_RIGHT}](?=[!-~])")
WITHOUT_BLANKS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
"""A character of a script without blanks between words: Thai, Lao, Burmese, Khmer, Japanese, Chinese."""
SIZE = 5
NEAR_ENOUGH = 1e-9
"""Tolerance for rounding errors in a similarity."""
_KEPT_MARKS = set("#%&@*/\\")
NUMBERS = {word: str(n) for n, word in enumerate("""zero one two three four five six seven eight nine ten eleven twelve
    thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty""".split())}  # fmt: skip
NUMBERS |= {word: str(10 * n) for n, word in enumerate("thirty forty fifty sixty seventy eighty ninety".split(), 3)}
"""The digits of each number word."""
_NUMBER = re.compile(rf"(?:(?<![\w.,)-])-)?\b[^\W\d]*+\d[\w.,:/-]*+|\b(?:{'|'.join(NUMBERS)})\b")
"""A number with its sign and unit, a date, an identifier with a digit, or a number word."""
_NEGATION = re.compile(
    r"\b(?:not?|never|none|nobody|nothing|neither|nor|without|cannot|nicht|kein\w*|nie|ohne|ne|pas|jamais|sans|sin|nunca|não"
    r"|sem|nao|(?:ca|wo|do|does|did|is|are|was|were|could|would|should|have|has|had|must|need)n['’]?t)\b|[不没沒無未]"
)
_SENTENCE_SIGNS = ".,;:!?\"'`´’‘“”„«»…–—·•-"
_SIGN = re.compile(rf"[^\w\s{_SENTENCE_SIGNS}]|_")
_ROWS_AT_ONCE = 2048


def keeps(char: str) -> bool:
    """Whether a character stays in the loose form: letters, digits, symbols, marks and ``# % & @ * / \\``."""
    return unicodedata.category(char)[0] in "LMNS" or char in _KEPT_MARKS


class _Loose(dict[int, int | str]):
    """A table for str.translate that replaces everything `keeps` rejects with a space."""

    def __missing__(self, code: int) -> int | str:
        self[code] = code if keeps(chr(code)) else " "
        return self[code]


_LOOSE = _Loose()


def has_invisible(text: str) -> bool:
    return not text.isascii() and _ANY.search(text) is not None


def visible_text(text: str) -> str:
    return _ANY.sub("", text) if has_invisible(text) else text


def visible_places(text: str) -> list[int]:
    """Return the position in the text of each character of `visible_text`."""
    hidden = {hit.start() for hit in _ANY.finditer(text)}
    return [i for i in range(len(text)) if i not in hidden]


def odd_invisible(text: str) -> tuple[int, str, int] | None:
    """Return (number, name of the first, its position) of the invisible characters that no script needs; None without any."""
    hits = [hit.start() for hit in _ODD.finditer(text)]
    if not hits:
        return None
    first = text[hits[0]]
    return len(hits), unicodedata.name(first, f"U+{ord(first):04X}"), hits[0]


def exact_form(text: str) -> str:
    """Apply NFKC, fold case, collapse blanks and drop invisible characters. Digits, punctuation and symbols stay."""
    return " ".join(exact_words(text))


def exact_words(text: str) -> list[str]:
    """Return the parts of the :func:`exact_form` between its blanks."""
    visible = text if text.isascii() else unicodedata.normalize("NFKC", visible_text(text))
    return visible.casefold().split()


def loose_form(text: str) -> str:
    """Return the exact form without punctuation (`c++`, `c#` and `95%` still differ), unless nothing would be left."""
    return loosened(exact_form(text))


def loosened(exact: str) -> str:
    """Return the :func:`loose_form` of a text by its exact form."""
    return " ".join(exact.translate(_LOOSE).split()) or exact


def facts_of(exact: str) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    """Return the numbers of a text in order, its signs (other than the punctuation of sentences) sorted, and its number of
    negations, by its exact form. Texts with other facts differ in meaning, however similar they are."""
    numbers = tuple(NUMBERS.get(number, number.rstrip(".,:/-")) for number in _NUMBER.findall(exact))
    signs = (sign for sign in _SIGN.findall(exact) if sign.isascii() or keeps(sign))
    return numbers, tuple(sorted(signs)), len(_NEGATION.findall(exact))


def text_key(text: str) -> str:
    """Return 32 hex digits of the SHA-256 of a text's exact form."""
    return hashlib.sha256(exact_form(text).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def grams(form: str) -> set[str]:
    """Return the 5-grams of a text; a shorter text is padded with blanks and has one."""
    padded = form.ljust(SIZE)
    return {padded[i : i + SIZE] for i in range(len(padded) - SIZE + 1)}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def similarity(text_a: str, text_b: str) -> float:
    """Return the Jaccard similarity of two texts."""
    return jaccard(grams(loose_form(text_a)), grams(loose_form(text_b)))


def near_any(texts: Sequence[str], other_texts: Iterable[str], threshold: float) -> list[bool]:
    """Return for each text whether its similarity with any of `other_texts` reaches the threshold. Compares every pair; memory
    grows with `texts` only."""
    import numpy as np
    from sklearn.feature_extraction.text import CountVectorizer

    near = np.zeros(len(texts), bool)
    if not texts:
        return []
    counter = CountVectorizer(analyzer=grams, dtype=np.int32)  # a set of 5-grams: each counts once
    matrix = counter.fit_transform(map(loose_form, texts))
    sizes, remaining = matrix.sum(axis=1).A1, map(loose_form, other_texts)
    while block := list(islice(remaining, _ROWS_AT_ONCE)):
        shared = (matrix @ counter.transform(block).T).tocoo()
        union = sizes[shared.row] + np.array([len(grams(form)) for form in block])[shared.col] - shared.data
        near[shared.row[shared.data / union >= threshold - NEAR_ENOUGH]] = True
    return near.tolist()
