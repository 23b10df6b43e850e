"""Finds personal data and secrets of known shapes in text and puts typed placeholders in their place.

Shapes only: names and postal addresses of people are out of reach of this module.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

KINDS = ("secret", "email", "iban", "card", "ip", "phone")


@dataclass(frozen=True)
class Span:
    """One hit: characters start to end (exclusive) of a text are of this kind."""

    start: int
    end: int
    kind: str


_EMAIL = re.compile(
    r"(?<![\w.+-])(?!git@)\w(?:[\w.+%'-]{0,62}[\w+])?@"
    r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?!(?:png|jpe?g|gif|svg|webp|js|ts|css|json|html?)\b)[^\W\d_]{2,24}(?![\w-])"
)
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S)
_KNOWN_SECRETS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
    sk-(?=[\w-]*\d)[A-Za-z0-9_-]{16,}                 # OpenAI, Anthropic and their like
  | [sr]k_(?:live|test)_[A-Za-z0-9]{16,}              # Stripe
  | gh[pousr]_[A-Za-z0-9]{20,} | github_pat_\w{20,}   # GitHub
  | glpat-[\w-]{16,}                                  # GitLab
  | (?:AKIA|ASIA)[0-9A-Z]{16}(?![0-9A-Za-z])          # AWS
  | xox[abeoprs]-[A-Za-z0-9-]{10,}                    # Slack
  | AIza[\w-]{35}                                     # Google
  | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{30,}        # Hugging Face, npm
  | SG\.[\w-]{16,}\.[\w-]{16,}                        # SendGrid
  | eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?              # JSON web token
)""",
    re.X,
)
_BEARER = re.compile(r"(?i)\bbearer\s+([A-Za-z0-9._~+/=-]{16,})")
_URL_LOGIN = re.compile(r"(?i)\b[a-z][a-z0-9+.-]{1,20}://([^\s/:@]{1,64}:[^\s/@]{1,128})@")
_NAMED = re.compile(r"""(?ix)(?<![a-z0-9])
    (?P<name>[a-z0-9_-]{0,40}?(?:key|token|secret|passwor[dt]|passwd|pwd|passphrase))
    ["']?\s{0,3}(?:=>|[:=])\s{0,3}["']?(?P<value>[^\s"'`,;<>\[\]{}()]{6,256})""")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?:[ ]?[A-Z0-9]{4}){2,7}(?:[ ]?[A-Z0-9]{1,4})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.+-])\d(?:[ -]?\d){11,18}(?![\w-]|\.\d)")
_IP = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)")
_VERSION_WORD = re.compile(
    r"(?i)(?:\bv|\b(?:version|release|build|firmware|driver|agent|client|app|sdk|api|update|upgrade[ds]?"
    r"|chrome|firefox|safari|edge|patch)(?:\s+(?:to|from|version|is|no\.?))?)[\s:/=v-]*$"
)
_PLUS_PHONE = re.compile(r"(?<![\w+])\+\d(?:[ ./()-]{0,3}\d){7,14}(?![\w]|[.:]\d)")
_US_PHONE = re.compile(
    r"(?<![\w.+/-])(?:1[-. ])?(?:\([2-9]\d\d\)[ -]?\d{3}[-. ]\d{4}"
    r"|[2-9]\d\d(?P<gap>[-. ])\d{3}(?P=gap)\d{4})(?![\w-]|\.\d)"
)
_NATIONAL_PHONE = re.compile(
    r"(?<![\w.+/:-])(?:\(0\d{1,5}\)|00?[1-9]\d{0,4})(?:[ /-]{1,2}\d{2,8}){1,5}(?![\w-]|[.:]\d)"
)
_BARE_PHONE = re.compile(r"(?<![\w.+/-])(?<!\d:)\d(?:[ -]?\d){6,14}(?![\w-]|[.:]\d)")
_PHONE_WORD = re.compile(
    r"(?i)\b(?:phone|tel|telephone|mobile|cell|whatsapp|fax|sms|call|ring|reach|text|dial|callback)"
    r"(?:\W{1,3}(?:me|us|him|her|them|back|number|no|nr|on|at|is|my|under|via|please|work|home|office"
    r"|the|to|phone|mobile|cell|directly))*\W{0,4}$"
)
_NUMBER_WORD = re.compile(
    r"(?i)(?:\b(?:order|invoice|ticket|case|ref|reference|sku|id|account|acct|po|tracking|serial|part"
    r"|build|commit|customer|booking|parcel|shipment|transaction|request|job|process|pid|row|item"
    r"|article|contract|policy|bestellung)s?(?:\W{1,3}(?:number|no|nr|id|is|code))*|\#)\W{0,3}$"
)
# Numbers that look like others: UUIDs, ISO and written dates and times, hashes.
_HARMLESS = re.compile(r"""(?x)
    \b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b
  | \b\d{4}[-/.]\d{1,2}[-/.]\d{1,2}(?:[T ,]{1,2}\d{1,2}:\d{2}(?::\d{2}(?:[.,]\d+)?)?(?:\s?Z|\s?[+-]\d{2}:?\d{2})?)?
  | \b\d{1,2}[-/.]\d{1,2}[-/.]\d{4}(?:[T ,]{1,2}\d{1,2}[:.]\d{2})?
  | \b(?=[0-9a-f]*[a-f])[0-9a-f]{32,128}\b
""")
_PLACEHOLDER = re.compile(r"\[([A-Z]+)_(\d{1,6})\]")


def entropy(text: str) -> float:
    """Shannon entropy of a text's characters, in bits per character."""
    n = len(text)
    return -sum(c / n * math.log2(c / n) for c in Counter(text).values()) if n else 0.0


def luhn_ok(digits: str) -> bool:
    """Luhn check (ISO/IEC 7812-1, annex B) of a card number's digits."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        n = int(digit) * (2 if i % 2 else 1)
        total += n - 9 if n > 9 else n
    return total % 10 == 0


def iban_ok(text: str) -> bool:
    """Mod-97 check (ISO 13616) of an IBAN, blanks allowed."""
    plain = text.replace(" ", "")
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _issuer_ok(d: str) -> bool:
    """Prefix and length of a known card issuer."""
    n, two, four = len(d), int(d[:2]), int(d[:4])
    return bool(
        (d[0] == "4" and n in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and n == 16)
        or (two in (34, 37) and n == 15)
        or ((four == 6011 or two == 65 or 644 <= int(d[:3]) <= 649) and n == 16)
        or (3528 <= four <= 3589 and n == 16)
        or ((two in (36, 38, 39) or 300 <= int(d[:3]) <= 305) and n == 14)
        or (two == 62 and 16 <= n <= 19)
    )


def _secret_value(name: str, value: str) -> bool:
    """Whether what stands after `name =` is random enough to be a secret rather than a word."""
    if re.fullmatch(r"[*•.xX#…_-]+.*|\$.*|.*\*{3,}.*", value):
        return False  # masked already, or a variable's name
    classes = [bool(re.search(p, value)) for p in ("[a-z]", "[A-Z]", r"\d", r"[^\w\s.:/_-]")]
    if name.lower().startswith("pass") or name.lower().endswith(
        ("password", "passwd", "pwd", "passphrase", "passwort")
    ):
        return (classes[2] or classes[3]) and sum(classes) >= 2 and entropy(value) >= 2.3
    strong = re.search(r"(?i)(?:api|access|private|secret|signing|encryption|auth|license)[_-]?key|token|secret", name)
    hexadecimal = bool(re.fullmatch(r"(?i)(?=.*\d)(?=.*[a-f])[0-9a-f-]{16,}", value))
    if strong:
        return len(value) >= 8 and (hexadecimal or (classes[2] and sum(classes) >= 2 and entropy(value) >= 2.8))
    return len(value) >= 16 and ((all(classes[:3]) and entropy(value) >= 3.5) or (hexadecimal and len(value) >= 32))


def find_spans(text: str) -> list[Span]:
    """All hits in a text, in order, none overlapping another; where two shapes fit, the earlier of KINDS wins."""
    taken: list[Span] = []

    def free(start: int, end: int) -> bool:
        return all(end <= s.start or start >= s.end for s in taken)

    def add(kind: str, start: int, end: int) -> None:
        if start < end and free(start, end):
            taken.append(Span(start, end, kind))

    for pattern, group in ((_PRIVATE_KEY, 0), (_KNOWN_SECRETS, 0), (_BEARER, 1), (_URL_LOGIN, 1)):
        for hit in pattern.finditer(text):
            add("secret", *_without_trailing_dot(text, *hit.span(group)))
    for hit in _NAMED.finditer(text):
        start, end = _without_trailing_dot(text, *hit.span("value"))
        if _secret_value(hit["name"], text[start:end]) and not _EMAIL.fullmatch(text[start:end]):
            add("secret", start, end)
    for hit in _EMAIL.finditer(text):
        add("email", *hit.span())
    for hit in _IBAN.finditer(text):
        end = _iban_end(text, *hit.span())
        add("iban", hit.start(), end)
    if not any(c.isdigit() for c in text):
        return sorted(taken, key=lambda s: s.start)
    harmless = [hit.span() for shape in (_HARMLESS, _IBAN) for hit in shape.finditer(text)]

    def numbers(pattern: re.Pattern[str], kind: str, fits: Callable[[re.Match[str]], bool]) -> None:
        for hit in pattern.finditer(text):
            if all(hit.end() <= a or hit.start() >= b for a, b in harmless) and fits(hit):
                add(kind, *hit.span())

    numbers(_CARD, "card", _is_card)
    numbers(_IP, "ip", lambda hit: _is_address(text, hit))
    numbers(_PLUS_PHONE, "phone", lambda hit: 8 <= _digits(hit) <= 15)
    numbers(_US_PHONE, "phone", lambda hit: _is_us_phone(text, hit))
    numbers(_NATIONAL_PHONE, "phone", lambda hit: 9 <= _digits(hit) <= 15 and not _after(text, hit, _NUMBER_WORD))
    numbers(_BARE_PHONE, "phone", lambda hit: _after(text, hit, _PHONE_WORD) and not _is_unix_time(hit[0]))
    return sorted(taken, key=lambda s: s.start)


def _without_trailing_dot(text: str, start: int, end: int) -> tuple[int, int]:
    while end > start and text[end - 1] in ".!?:":
        end -= 1
    return start, end


def _digits(hit: re.Match[str]) -> int:
    return sum(c.isdigit() for c in hit[0])


def _after(text: str, hit: re.Match[str], word: re.Pattern[str]) -> bool:
    return bool(word.search(text[max(0, hit.start() - 60) : hit.start()]))


def _is_card(hit: re.Match[str]) -> bool:
    digits = re.sub(r"\D", "", hit[0])
    return _issuer_ok(digits) and luhn_ok(digits)


def _is_address(text: str, hit: re.Match[str]) -> bool:
    """Four octets that name a machine somewhere: no version number, not this machine, no mask."""
    octets = [int(o) for o in hit[0].split(".")]
    local = octets[0] in (0, 127, 255)
    return max(octets) <= 255 and not local and not _after(text, hit, _VERSION_WORD)


def _is_us_phone(text: str, hit: re.Match[str]) -> bool:
    """Three groups; with blanks between them alone, only after a word such as `call`."""
    if _after(text, hit, _NUMBER_WORD):
        return False
    return "(" in hit[0] or hit["gap"] != " " or _after(text, hit, _PHONE_WORD)


def _is_unix_time(number: str) -> bool:
    return bool(re.fullmatch(r"1[5-9]\d{8}(?:\d{3})?", number))


def _iban_end(text: str, start: int, end: int) -> int:
    """Where the IBAN that begins at `start` ends (words behind it may have been matched too); `start` if none does."""
    while end > start:
        if iban_ok(text[start:end]):
            return end
        cut = text.rfind(" ", start, end)
        if cut < 0:
            return start
        end = cut
    return start


class Scrubber:
    """Placeholders for one example: the same value gets the same placeholder wherever it stands in it."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._names: dict[tuple[str, str], str] = {}
        self._next: Counter[str] = Counter()
        for text in texts:  # numbers that are in use already
            for kind, number in _PLACEHOLDER.findall(text):
                self._next[kind.lower()] = max(self._next[kind.lower()], int(number))
        self.counts: Counter[str] = Counter()

    def scrub(self, text: str) -> str:
        """The text with placeholders, until nothing is found any more; every replacement is counted in `counts`."""
        while spans := find_spans(text):
            parts, at = [], 0
            for span in spans:
                parts += [text[at : span.start], self._placeholder(span.kind, text[span.start : span.end])]
                at = span.end
                self.counts[span.kind] += 1
            text = "".join([*parts, text[at:]])
        return text

    def _placeholder(self, kind: str, value: str) -> str:
        if kind == "email":
            value = value.casefold()
        elif kind in ("phone", "card", "iban"):
            value = re.sub(r"[ ()./-]", "", value)
        key = (kind, value)
        if key not in self._names:
            self._next[kind] += 1
            self._names[key] = f"[{kind.upper()}_{self._next[kind]}]"
        return self._names[key]


def scrub_messages(
    messages: Sequence[dict[str, str]], keep: Sequence[int] = ()
) -> tuple[list[dict[str, str]], dict[str, int]]:
    """(turns with placeholders, hits per kind). System turns (the spec's own words) and the turns in `keep` stay."""
    scrubber = Scrubber([m["content"] for m in messages])
    done = [
        dict(m) if m["role"] == "system" or i in keep else {**m, "content": scrubber.scrub(m["content"])}
        for i, m in enumerate(messages)
    ]
    return done, {kind: scrubber.counts[kind] for kind in KINDS if scrubber.counts[kind]}


def scrub_text(text: str) -> str:
    """A text with placeholders."""
    return Scrubber([text]).scrub(text)
