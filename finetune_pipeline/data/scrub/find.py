"""Finds personal data and secrets in a text. Cheap tests decide which patterns are worth running."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from finetune_pipeline.data.invisible import has_invisible, visible_places, visible_text
from finetune_pipeline.data.scrub import national_ids, network, numbers, secrets
from finetune_pipeline.data.scrub.kinds import Span

Finder = Callable[[str], list[Span]]
"""Finds personal data and secrets: `find_spans`, or what `names.finder_of` makes of a spec."""

# Full-width forms (U+FF01..FF5E), blanks that do not break, hyphens and dashes that are not the ASCII one.
_ODD = re.compile("[\u00a0\u2007\u2009\u202f\u3000\u2010-\u2015\u2212\uff01-\uff5e]")
_BLANKS = "\u00a0\u2007\u2009\u202f\u3000"
_DIGITS, _LETTERS = b"0123456789", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SHAPE = bytes.maketrans(_DIGITS + _LETTERS, b"0" * 10 + b"a" * 52)
"""For bytes.translate: digits as 0, letters as a."""
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{16}")
_DIGIT = re.compile("[0-9]")
_NEAR_RUN = re.compile(r"[0-9][0-9 ./()-]{4,}[0-9]")  # quick to search for; _RUN is the exact one
_RUN = re.compile(r"[0-9](?:[ ./()-]{0,3}[0-9]){5,}")
# Dates, ranges of years, seconds since 1970, sums
_PLAIN_RUN = re.compile(
    r"(?:(?:19|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9]|[0-3]?[0-9][-/.][0-3]?[0-9][-/.](?:19|20)?[0-9]{2})"
    r"(?: -?[0-2]?[0-9](?:\.[0-5][0-9])?)?"
    r"|(?:19|20)[0-9]{2}(?:[ /.-]{1,3}(?:19|20)[0-9]{2})+"
    r"|1[5-9][0-9]{8}(?:[0-9]{3})?"
    r"|[1-9][0-9]{0,4}(?:\.[0-9]+)?(?: [-/] [1-9][0-9]{0,4}(?:\.[0-9]+)?)+"
)
# Numbers that look like others: UUIDs, ISO and written dates and times, hashes.
_HARMLESS = re.compile(r"""(?ax)
    \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b
  | \b(?:1[0-9]|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9](?![0-9])
    (?:[T ,]{1,2}[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:\s?Z|\s?[+-][0-9]{2}:?[0-9]{2})?)?
  | \b[0-3]?[0-9][-/.][0-3]?[0-9][-/.](?:1[0-9]|20)[0-9]{2}(?![0-9])(?:[T ,]{1,2}[0-9]{1,2}[:.][0-9]{2})?
  | \b(?=[0-9a-f]*[a-f])[0-9a-f]{32,128}\b
""")
PLACEHOLDER = re.compile(r"\[([A-Z]+(?:_[A-Z]+)*)_([0-9]{1,6})\]")
"""Kind and number of a value that was replaced."""


class _Hits:
    """Hits in a text, none overlapping another."""

    def __init__(self, text: str) -> None:
        self.spans: list[Span] = []
        self._text = text
        self._closed = [hit.span() for hit in PLACEHOLDER.finditer(text)] if "[" in text else []

    def add(self, kind: str, places: Iterable[tuple[int, int]]) -> None:
        for start, end in places:
            if start < end and self.free(start, end):
                self.spans.append(Span(start, end, kind))

    def add_numbers(self, kind: str, places: Iterable[tuple[int, int]]) -> None:
        """Those that are not part of a date, a UUID or a hash."""
        for start, end in places:
            if self.free(start, end) and not self._harmless(start, end):
                self.spans.append(Span(start, end, kind))

    def free(self, start: int, end: int) -> bool:
        return all(end <= s.start or start >= s.end for s in self.spans) and all(
            end <= a or start >= b for a, b in self._closed
        )

    def _harmless(self, start: int, end: int) -> bool:
        low = max(0, start - 140)
        return any(
            a.start() < end and start < a.end()
            for a in _HARMLESS.finditer(self._text, low, min(len(self._text), end + 140))
        )


def find_spans(text: str, recogniser: Finder | None = None, regions: Sequence[str] = ()) -> list[Span]:
    """All hits in a text, in order, none overlapping another; where two kinds fit, the earlier of KINDS wins.

    With a recogniser names and postal addresses are found too, with regions the national telephone numbers of these
    countries. Invisible characters do not count. Placeholders are never part of a hit.
    """
    if has_invisible(text):
        places = visible_places(text)
        spans = find_spans(visible_text(text), recogniser, regions)
        return [Span(places[s.start], places[s.end - 1] + 1, s.kind) for s in spans]
    spans = _shapes(text, regions)
    if recogniser is not None:
        hits = _Hits(text)
        hits.spans = spans
        for span in recogniser(text):
            hits.add(span.kind, [(span.start, span.end)])
        spans = hits.spans
    return sorted(spans, key=_start) if len(spans) > 1 else spans


def _start(span: Span) -> int:
    return span.start


def _shapes(text: str, regions: Sequence[str]) -> list[Span]:
    """Hits of the kinds that have a shape. The order of the tests is the order of KINDS, but for costs."""
    if not text.isascii():
        text = _ODD.sub(_likeness, text)
    low, hits = _lower_form(text), _Hits(text)
    shape = text.encode("utf-8", "surrogatepass").translate(_SHAPE)
    if _LONG_WORD.search(text):
        _in_long_words(text, hits)
    if "-----BEGIN" in text:
        hits.add("secret", secrets.private_keys(text))
    if "@" in text and "://" in text:
        hits.add("secret", secrets.logins(text))
    if _any_in(secrets.CREDENTIAL_SIGNS, low):
        hits.add("secret", secrets.credentials(text))
    if _any_in(secrets.NAMES, low):
        hits.add("secret", secrets.named_secrets(text, low))
    if "phrase" in low or "mnemonic" in low:
        hits.add("secret", secrets.seed_phrases(text))
    if "@" in text:
        hits.add("email", network.emails(text))
    if _any_in(("at]", "at)", "at ]", "at )"), low):
        hits.add("email", network.spelt_emails(text))
    if shape.count(b"0") >= 4:
        _in_digits(text, low, shape, hits, regions)
    elif "::" in text:
        hits.add("ip", network.ipv6(text))
    return hits.spans


def _any_in(signs: Iterable[str], text: str) -> bool:
    return any(sign in text for sign in signs)


def _in_long_words(text: str, hits: _Hits) -> None:
    aws, end = "AKIA" in text or "ASIA" in text or "aws" in text or "AWS" in text, 0
    for word in text.split():
        if len(word) >= 16 and (_DIGIT.search(word) or "hf_" in word):
            start = text.index(word, end)
            end = start + len(word)
            hits.add("secret", secrets.known_secrets(text, start, end, aws))
            hits.add("wallet", numbers.wallets(text, start, end))
            hits.add("national_id", national_ids.bare_ids(text, start, end))


def _in_digits(text: str, low: str, shape: bytes, hits: _Hits, regions: Sequence[str]) -> None:
    if b"aa00" in shape:
        hits.add("iban", numbers.ibans(text))
    runs = [
        run.span()
        for near in _NEAR_RUN.finditer(text)
        if not _PLAIN_RUN.fullmatch(text, *near.span())
        for run in _RUN.finditer(text, *near.span())
        # six digits alone are nobody's, with letters before them they may be
        if run.end() - run.start() > 6 or text[max(0, run.start() - 2) : run.start()].strip().isalpha()
    ]
    for start, end in runs:
        hits.add_numbers("card", numbers.cards(text, start, end))
    if b"aaaaa0000a" in shape:
        hits.add_numbers("national_id", national_ids.bare_ids(text, 0, len(text)))
    if _any_in(national_ids.DOCUMENTS, low):
        hits.add_numbers("national_id", national_ids.document_numbers(text))
    for start, end in runs:
        hits.add_numbers("national_id", national_ids.national_ids(text, start, end))
    if "::" in text or text.count(":") > 6:
        hits.add("ip", network.ipv6(text))
    if max(text.count(":"), text.count("-")) > 4 or (b"a0" in shape and text.count(".") > 1):
        hits.add("mac", network.macs(text))
    if shape.count(b".0") > 2:
        hits.add("ip", network.ipv4(text))
    if _any_in(numbers.BIRTH_WORDS, low):
        hits.add("birth_date", numbers.birth_dates(text))
    for start, end in runs:
        hits.add_numbers("phone", numbers.phones(text, start, end, regions))


def _lower_form(text: str) -> str:
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
