"""Characters that show nothing: zero-width and bidi characters, soft hyphens, fillers.

They hide an address from scrubbing, and a copy of a row from the search for duplicates. Both look at the text without them.
"""

from __future__ import annotations

import re
import unicodedata

INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Inside of a character class: Unicode's Default_Ignorable_Code_Point, and the marks of interlinear notes."""
_ANY = re.compile(f"[{INVISIBLE}]")
# Joiners, variation selectors and directional marks belong to many scripts and to emoji: odd only amid ASCII characters.
# Flags of regions are spelt with tag characters.
_OFTEN_RIGHT = "\u061c\u200c-\u200f\ufe00-\ufe0f"
_ODD = re.compile(
    f"(?![{_OFTEN_RIGHT}])(?<![\U0001f3f4\U000e0020-\U000e007f])[{INVISIBLE}]|(?<=[!-~])[{_OFTEN_RIGHT}](?=[!-~])"
)


def has_invisible(text: str) -> bool:
    return not text.isascii() and _ANY.search(text) is not None


def visible_text(text: str) -> str:
    """The text without its invisible characters."""
    return text if text.isascii() else _ANY.sub("", text)


def visible_places(text: str) -> list[int]:
    """For each character of `visible_text` its place in the text."""
    hidden = {hit.start() for hit in _ANY.finditer(text)}
    return [i for i in range(len(text)) if i not in hidden]


def odd_invisible(text: str) -> tuple[int, str, int] | None:
    """(number, name of the first, its place) of the invisible characters that no script needs; None where there are none."""
    hits = [hit.start() for hit in _ODD.finditer(text)]
    if not hits:
        return None
    first = text[hits[0]]
    return len(hits), unicodedata.name(first, f"U+{ord(first):04X}"), hits[0]
