"""Finds personal data and secrets in a text. Cheap tests decide which patterns to run."""

import ipaddress
import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter

from finetune_pipeline.data.dedup.text_similarity import has_invisible, visible_places, visible_text
from finetune_pipeline.data.scrub import national_ids, numbers, secrets
from finetune_pipeline.data.scrub.kinds import Span
from finetune_pipeline.data.scrub.numbers import before

Finder = Callable[[str], list[Span]]
"""A function that finds personal data and secrets: `find_spans`, or one made by `names.finder_of`."""

# Full-width forms (U+FF01..FF5E), non-breaking blanks, non-ASCII hyphens and dashes
_NON_ASCII_FORMS = re.compile("[\u00a0\u2007\u2009\u202f\u3000\u2010-\u2015\u2212\uff01-\uff5e]")
_BLANKS = "\u00a0\u2007\u2009\u202f\u3000"
_DIGITS, _LETTERS = b"0123456789", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TO_SHAPE = bytes.maketrans(_DIGITS + _LETTERS, b"0" * 10 + b"a" * 52)
"""Table for bytes.translate: replaces digits by 0 and letters by a."""
_LONG_WORD = re.compile(r"[A-Za-z0-9_-]{16}")
_DIGIT = re.compile("[0-9]")
_MAYBE_DIGIT_RUN = re.compile(r"[0-9][0-9 ./()-]{4,}[0-9]")  # a fast pre-check; _DIGIT_RUN is exact
_DIGIT_RUN = re.compile(r"[0-9](?:[ ./()-]{0,3}[0-9]){5,}")
# Runs of digits that are dates, ranges of years, seconds since 1970, or small numbers with - or / between them
_HARMLESS_RUN = re.compile(
    r"(?:(?:19|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9]|[0-3]?[0-9][-/.][0-3]?[0-9][-/.](?:19|20)?[0-9]{2})"
    r"(?: -?[0-2]?[0-9](?:\.[0-5][0-9])?)?"
    r"|(?:19|20)[0-9]{2}(?:[ /.-]{1,3}(?:19|20)[0-9]{2})+"
    r"|1[5-9][0-9]{8}(?:[0-9]{3})?"
    r"|[1-9][0-9]{0,4}(?:\.[0-9]+)?(?: [-/] [1-9][0-9]{0,4}(?:\.[0-9]+)?)+"
)
# Text around digits that makes them harmless: UUIDs, ISO and written dates and times, hashes
_HARMLESS = re.compile(r"""(?ax)
    \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b
  | \b(?:1[0-9]|20)[0-9]{2}[-/.][01]?[0-9][-/.][0-3]?[0-9](?![0-9])
    (?:[T ,]{1,2}[0-9]{1,2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?(?:\s?Z|\s?[+-][0-9]{2}:?[0-9]{2})?)?
  | \b[0-3]?[0-9][-/.][0-3]?[0-9][-/.](?:1[0-9]|20)[0-9]{2}(?![0-9])(?:[T ,]{1,2}[0-9]{1,2}[:.][0-9]{2})?
  | \b(?=[0-9a-f]*[a-f])[0-9a-f]{32,128}\b
""")
# A word character, except those of scripts without blanks between words
_W = r"[^\W\u2e80-\u9fff\uac00-\ud7af]"
_LOCAL_PART = re.compile(rf"(?<!{_W})(?<![.+-])(?!git\Z){_W}(?:(?:{_W}|[.+%'-]){{0,62}}(?:{_W}|\+))?\Z")
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}"
    r"(?!(?:png|jpe?g|gif|svg|webp|js|ts|css|json|html?)\b)(?:[^\W\d_a-zA-Z]{2,24}|[a-zA-Z]{2,24}|xn--[\w-]{2,50})(?![A-Za-z0-9-])"
)
_OBFUSCATED_EMAIL = re.compile(
    r"(?i)(?<![\w.+-])\w[\w.+-]{0,62}\s?[\[(]\s?at\s?[\])]\s?(?:[\w-]{1,62}(?:\.|\s?[\[(]\s?dot\s?[\])]\s?)){1,6}[a-z]{2,24}(?![\w-])"
)
"""An obfuscated address: ``name [at] example [dot] com``."""
_IPV4 = re.compile(r"(?a)(?<![\w.-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
_IPV6 = re.compile(r"(?a)(?<![\w.:])[0-9A-Fa-f:]{2,39}(?:(?<=:)[0-9]{1,3}(?:\.[0-9]{1,3}){3})?(?![\w:]|\.[0-9])")
_MAC = re.compile(
    r"(?a)(?<![\w:-])[0-9A-Fa-f]{2}(?P<gap>[:-])(?:[0-9A-Fa-f]{2}(?P=gap)){4}[0-9A-Fa-f]{2}(?![\w-]|:\w)"
    r"|(?<![\w.])(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}(?!\w|\.\w)"
)
_MAC_WORD = re.compile(r"(?i)\bmac\b|hwaddr|ether|bluetooth|wi-?fi|dhcp")
_VERSION_WORD = re.compile(
    r"(?i)(?:\bv|(?:\b|-)(?:version|release|build|firmware|driver|agent|client|app|sdk|api|update|upgrade[ds]?|section|chapter"
    r"|clause|chrome|firefox|safari|edge|patch|windows|oid|kernel)(?:\s+(?:to|from|version|is|no\.?))?)[\s:/=v\"'-]*$"
)
_HOST_WORD = re.compile(
    r"(?i)(?:\b(?:ips?|ipv4|hosts?|server|address|adresse|ping|ssh|from|dns|gateway|router|node|machine)\b\W{0,3}\w{0,4}\W{0,3}|[@/\[])$"
)
PLACEHOLDER = re.compile(r"\[([A-Z]+(?:_[A-Z]+)*)_([0-9]{1,6})\]")
"""Kind and number of a replaced value."""


class _Hits:
    """Collects hits in a text that do not overlap each other or a placeholder."""

    def __init__(self, text: str) -> None:
        self.spans: list[Span] = []
        self._text = text
        self._occupied = [hit.span() for hit in PLACEHOLDER.finditer(text)] if "[" in text else []  # always sorted

    def add(self, kind: str, places: Iterable[tuple[int, int]], numbers: bool = False) -> None:
        """Add the places that are free, as hits of a kind. numbers: skip parts of a date, a UUID or a hash."""
        for start, end in places:
            if start < end and self.free(start, end) and not (numbers and self._harmless(start, end)):
                self.spans.append(Span(start, end, kind))
                insort(self._occupied, (start, end))

    def free(self, start: int, end: int) -> bool:
        """Whether a place overlaps no hit and no placeholder."""
        number = bisect_left(self._occupied, (end,))  # the first that starts at the end or behind it
        return number == 0 or self._occupied[number - 1][1] <= start

    def _harmless(self, start: int, end: int) -> bool:
        nearby = _HARMLESS.finditer(self._text, max(0, start - 140), min(len(self._text), end + 140))
        return any(hit.start() < end and start < hit.end() for hit in nearby)


def find_spans(text: str, recogniser: Finder | None = None, regions: Sequence[str] = ()) -> list[Span]:
    """Find all non-overlapping hits in a text, in order; if two kinds match, the earlier in KINDS wins. Invisible characters
    are ignored, and placeholders are never part of a hit.

    A recogniser also finds names and postal addresses. With regions, the national telephone numbers of these countries are
    found too.
    """
    if has_invisible(text):
        places = visible_places(text)
        spans = find_spans(visible_text(text), recogniser, regions)
        return [Span(places[s.start], places[s.end - 1] + 1, s.kind) for s in spans]
    hits = _find_formats(text, regions)
    for span in recogniser(text) if recogniser else ():
        hits.add(span.kind, [(span.start, span.end)])
    return sorted(hits.spans, key=attrgetter("start"))


def _find_formats(text: str, regions: Sequence[str]) -> _Hits:
    """Find the kinds with a fixed format, in the order of KINDS unless cost matters."""
    if not text.isascii():
        text = _NON_ASCII_FORMS.sub(_ascii_form, text)
    low, hits = _lower_form(text), _Hits(text)
    shape = text.encode("utf-8", "surrogatepass").translate(_TO_SHAPE)
    if (b"0" in shape or "hf_" in text) and _LONG_WORD.search(text):
        _find_in_long_words(text, hits)
    if "-----BEGIN" in text:
        hits.add("secret", _spans(secrets.PRIVATE_KEY, text))
    if "@" in text and "://" in text:
        hits.add("secret", secrets.logins(text))
    if _contains_any(secrets.CREDENTIAL_SIGNS, low):
        hits.add("secret", secrets.credentials(text))
    if _contains_any(secrets.NAMES, low):
        hits.add("secret", secrets.named_secrets(text, low))
    if "phrase" in low or "mnemonic" in low:
        hits.add("secret", _spans(secrets.SEED, text, "value"))
    if "@" in text:
        hits.add("email", emails(text))
    if ("[" in text or "(" in text) and _contains_any(("at]", "at)", "at ]", "at )"), low):
        hits.add("email", _spans(_OBFUSCATED_EMAIL, text))
    if shape.count(b"0") >= 4:
        _find_in_digits(text, low, shape, hits, regions)
    elif "::" in text:
        hits.add("ip", ipv6(text))
    return hits


def _spans(pattern: re.Pattern[str], text: str, group: str | int = 0) -> Iterator[tuple[int, int]]:
    return (hit.span(group) for hit in pattern.finditer(text))


def _contains_any(signs: Iterable[str], text: str) -> bool:
    for sign in signs:  # noqa: SIM110 (a generator takes twice as long)
        if sign in text:
            return True
    return False


def _find_in_long_words(text: str, hits: _Hits) -> None:
    """Find secrets, wallets and ids in words of 16 or more characters."""
    mentions_aws = _contains_any(("AKIA", "ASIA", "aws", "AWS"), text)
    end = 0
    for word in text.split():
        if len(word) >= 16 and (_DIGIT.search(word) or "hf_" in word):
            start = text.index(word, end)
            end = start + len(word)
            hits.add("secret", secrets.known_secrets(text, start, end, mentions_aws))
            hits.add("wallet", numbers.wallets(text, start, end))
            hits.add("national_id", national_ids.bare_ids(text, start, end))


def _find_in_digits(text: str, low: str, shape: bytes, hits: _Hits, regions: Sequence[str]) -> None:
    """Find the kinds that hold at least four digits. low: the text in lower case. shape: the text with 0 and a."""
    if b"aa00" in shape:
        hits.add("iban", numbers.ibans(text))
    runs = [
        run.span()
        for candidate in _MAYBE_DIGIT_RUN.finditer(text)
        if not _HARMLESS_RUN.fullmatch(text, *candidate.span())
        for run in _DIGIT_RUN.finditer(text, *candidate.span())
        # six digits identify nobody, unless letters precede them
        if run.end() - run.start() > 6 or text[max(0, run.start() - 2) : run.start()].strip().isalpha()
    ]
    for start, end in runs:
        hits.add("card", numbers.cards(text, start, end), numbers=True)
    if b"aaaaa0000a" in shape:
        hits.add("national_id", national_ids.bare_ids(text, 0, len(text)), numbers=True)
    if _contains_any(national_ids.DOCUMENTS, low):
        hits.add("national_id", _spans(national_ids.LETTERED, text, "value"), numbers=True)
    for start, end in runs:
        hits.add("national_id", national_ids.national_ids(text, start, end), numbers=True)
    if "::" in text or text.count(":") > 6:
        hits.add("ip", ipv6(text))
    if max(text.count(":"), text.count("-")) > 4 or (b"a0" in shape and text.count(".") > 1):
        hits.add("mac", macs(text))
    if shape.count(b".0") > 2:
        hits.add("ip", ipv4(text))
    if _contains_any(numbers.BIRTH_WORDS, low):
        hits.add("birth_date", numbers.birth_dates(text))
    for start, end in runs:
        hits.add("phone", numbers.phones(text, start, end, regions), numbers=True)


def _lower_form(text: str) -> str:
    """Return the text in lower case with unchanged length (letters whose lower case has two characters stay)."""
    low = text.lower()
    if len(low) == len(text):
        return low
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _ascii_form(hit: re.Match[str]) -> str:
    char = hit[0]
    if char in _BLANKS:
        return " "
    return chr(ord(char) - 0xFEE0) if char > "\uff00" else "-"


def emails(text: str) -> Iterator[tuple[int, int]]:
    """Find e-mail addresses; ``git@host``, ``user@localhost`` and ``package@1.2`` are not."""
    at = text.find("@")
    while at >= 0:
        is_inside_word = text[at - 1 : at] not in " \n\t" and text[at + 1 : at + 2].isalnum()
        domain = _DOMAIN.match(text, at + 1) if is_inside_word else None
        local = _LOCAL_PART.search(text, max(0, at - 66), at) if domain else None
        if local and domain and not text.startswith("_", domain.end()):
            yield local.start(), domain.end()
        at = text.find("@", at + 1)


def ipv4(text: str) -> Iterator[tuple[int, int]]:
    """Find IPv4 addresses of machines; version numbers, loopback addresses and masks are not. Four small numbers are a version
    or a section, unless the network is private, a word such as `host` precedes them, or a port or prefix length follows."""
    for hit in _IPV4.finditer(text):
        octets = [int(o) for o in hit[0].split(".")]
        if max(octets) > 255 or octets[0] in (0, 127) or octets[0] >= 224:
            continue
        words, after = before(text, hit.start()), text[hit.end() : hit.end() + 1]
        private = octets[:2] == [192, 168] or (octets[0] == 172 and 16 <= octets[1] < 32)
        if not private and _VERSION_WORD.search(words):
            continue
        if private or max(octets) > 30 or octets[0] == 10 or _HOST_WORD.search(words) or after in ("/", ":"):
            yield hit.span()


def ipv6(text: str) -> Iterator[tuple[int, int]]:
    """Find IPv6 addresses; ``::1``, slices such as ``1::2`` and names such as ``std::vector`` are not."""
    for hit in _IPV6.finditer(text):
        value = hit[0]
        if value.count(":") < 2:
            continue
        start, end = hit.span()
        if value.endswith(":") and not value.endswith("::"):
            value, end = value[:-1], end - 1
        try:
            address = ipaddress.IPv6Address(value)
        except ValueError:
            continue
        if address.is_loopback or address.is_unspecified or address.is_multicast:
            continue
        groups = [group for group in value.split(":") if group]
        if any(len(group) >= 3 and any(c.isdigit() for c in group) for group in groups):
            yield start, end


def macs(text: str) -> Iterator[tuple[int, int]]:
    """Find MAC addresses, except repeated digits and key fingerprints; one without letters only after a word such as `mac`."""
    for hit in _MAC.finditer(text):
        digits = re.sub(r"[^0-9a-f]", "", hit[0].lower())
        if len(set(digits)) > 1 and not (digits.isdecimal() and not _MAC_WORD.search(before(text, hit.start()))):
            yield hit.span()
