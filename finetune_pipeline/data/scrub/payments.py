"""Payment cards, bank accounts (IBAN) and wallets of crypto currencies: shapes, proven by their check digits."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from finetune_pipeline.data.scrub.context import CARD_WORD, NUMBER_WORD, before

_CARD = re.compile(r"(?a)(?<![\w.+-])(?<![0-9] )[0-9](?:[ -]?[0-9]){11,18}(?![\w-]|\.[0-9]| [0-9])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,34}")
_WALLET = re.compile(
    r"(?<![A-Za-z0-9])(?:0x[0-9a-fA-F]{40}|bc1[02-9ac-hj-np-z]{11,87}|[13LMDT][1-9A-HJ-NP-Za-km-z]{25,34}"
    r"|[48][0-9AB][1-9A-HJ-NP-Za-km-z]{93})(?![A-Za-z0-9])"
)
_BASE58 = {c: i for i, c in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}


def luhn_ok(digits: str) -> bool:
    """Luhn check (ISO/IEC 7812-1, annex B) of a card number's digits."""
    total = 0
    for i, digit in enumerate(reversed(digits)):
        n = int(digit) * (2 if i % 2 else 1)
        total += n - 9 if n > 9 else n
    return total % 10 == 0


def issuer_ok(d: str) -> bool:
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
        or (two in (50, 56, 57, 58, 63, 67) and 12 <= n <= 19)
    )


def iban_ok(text: str) -> bool:
    """Whether it is an IBAN (ISO 13616): country, length and form of that country, check digits; blanks allowed."""
    from stdnum import iban  # type: ignore[import-untyped]

    return bool(iban.is_valid(text, check_country=False))


def cards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places of card numbers among the digits from start to end: issuer's prefix, length, Luhn.

    One number in ten passes the Luhn check by chance: what is called an order, a parcel or the like, and not a card,
    is left alone.
    """
    for hit in _CARD.finditer(text, start, end):
        digits = re.sub(r"[ -]", "", hit[0])
        if issuer_ok(digits) and luhn_ok(digits):
            words = before(text, hit.start())
            rare = digits[0] in "56" and int(digits[:2]) in (
                50,
                56,
                57,
                58,
                63,
                67,
            )  # Maestro: short prefixes, many lengths
            if (CARD_WORD.search(words) or not rare) and not (
                NUMBER_WORD.search(words) and not CARD_WORD.search(words[-24:])
            ):
                yield hit.span()


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Places of IBANs; words behind one, in capitals too, are not part of it."""
    at = 0
    while hit := _IBAN.search(text, at):
        start, end = hit.span()
        at = start + 1
        while end - start >= 15:
            value = text[start:end]
            whole = not text[end : end + 1].isalnum()
            if whole and (" " not in value or value.upper() == value) and iban_ok(value.replace("-", " ")):
                yield start, end
                at = end
                break
            end = (
                max(text.rfind(" ", start, end), text.rfind("-", start, end))
                if whole or " " in value or "-" in value
                else 0
            )


def wallets(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Places of wallet addresses within a word: Bitcoin and its kin and Tron by check digits, others by shape."""
    for hit in _WALLET.finditer(text, start, end):
        value = hit[0]
        if value[0] not in "13LMDT" or len(value) > 40 or _base58_ok(value):
            yield hit.span()


def _base58_ok(value: str) -> bool:
    """Base58Check: the last four of the 25 bytes are the start of the double SHA-256 of the others."""
    number = 0
    for c in value:
        number = number * 58 + _BASE58[c]
    if number >= 1 << 200:
        return False
    data = number.to_bytes(25, "big")
    return hashlib.sha256(hashlib.sha256(data[:21]).digest()).digest()[:4] == data[21:]
