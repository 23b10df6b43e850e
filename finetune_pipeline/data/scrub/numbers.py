"""Finds numbers that belong to a person: phones, payment cards, IBANs, wallets and dates of birth, by their format and by the
words before them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import phonenumbers

BEFORE = 60
"""Number of characters before a number that are its context."""
_PHONE_NOUN = (
    r"phones?|telephones?|tele[fp]h?oo?n\w*|t[eé]l[eé]phone|tel[eé]fono|t[eé]l|tlf|mobi[el]\w*|m[oó]vil|cell\w*|celular|handy\w*"
    r"|portable|gsm|whats\s?app|fax|sms|kom[oó]rk\w*|rufnummer|landline|(?:support|info|service)\s?line|switchboard|hotline|helpline"
)
_NUMBER = r"numbers?|nummer|num[eé]ro|n[uú]mero|numer|no|nr"
# The number follows directly or after small words.
PHONE_TIGHT = re.compile(
    rf"(?i)(?:(?<![^\W_])(?:{_PHONE_NOUN}|call|ring|reach|text|dial|callback|contact|anrufen|appel\w*|ll[aá]ma\w*|bel|dzwo\w+"
    rf"|(?:my|his|her|our|their|meine|mon|mi|mio|mijn)\s(?:new\s|neue\s|nouveau\s|nuovo\s)?(?:{_NUMBER})"
    rf"|zadzwo\w+|lig[au]\w*|chiama\w*)(?:[\W_]{{1,3}}(?:me|us|him|her|them|back|{_NUMBER}"
    r"|on|at|is|was|my|under|unter|via|please|work|home|office|the|to|au|al|op|pod|phone|mobile|cell|directly|est|le|es|ist))*"
    r"|電話(?:番号)?|携帯(?:番号)?|手机|电话|전화)[^\w(+]{0,4}(?:は|为|是)?\s?$"
)
# The number follows somewhere in the same sentence.
PHONE_LOOSE = re.compile(rf"(?i)(?<![^\W_])(?:{_PHONE_NOUN})\.?[^0-9\n.!?;#]{{0,25}}$|(?:電話|携帯)[^0-9\n。]{{0,12}}$")
PHONE_AFTER = re.compile(
    r"(?i)\s?(?:\((?:mobile|cell|home|work|office|tel|phone|[mchwot])\)"
    r"|,?\s(?:is|was)\s(?:my|his|her|our|the|their)\s(?:\w+\s)?(?:phone|number|cell|mobile|landline))\b"
)
NUMBER_WORD = re.compile(
    r"(?i)(?:(?<![^\W_])(?:order|invoice|ticket|case|barcode|ref|reference|sku|(?:uu)?ids?|account|acct|po|tracking|serial|part|batch|lot"
    r"|build|commit|customer|booking|parcel|shipment|transaction|request|job|process|pid|row|item|article|contract|policy"
    r"|isbn|issn|ean|gtin|upc|doi|vin|oid|model|error|fedex|ups|usps|dhl|version|code|voucher|coupon|receipt|product"
    r"|membership|claim|quote|serie|meter|pnr|utr|dossier|expediente|referencia|pratica|codice|spedizione|siret|abn"
    r"|(?!tele|mobil|handy|ruf|durch)\w{3,}(?:nummer|number)|suivi|\w*bestell\w*|\w*artikel\w*|\w*rechnung\w*|\w*sendung\w*|\w*auftrag\w*|\w*vertrag\w*|\w*vorgang\w*|\w*kunden\w*"
    r"|commande|facture|r[eé]f[eé]rence|colis|pedido|factura|fatura|bestelling\w*|factuur|zam[oó]wieni\w+|faktur\w+|ordine|fattura"
    r")s?(?:[\W_]{1,3}(?:numbers?|nummer|num[eé]ro|n[uú]mero|no|nr|n|id|is|was|de|code|ref))*|\#|[nN][°º]|注文番号|番号)[^\w(+]{0,3}$"
)
CARD_WORD = re.compile(r"(?i)card|\bcc\b|karte|carte|tarjeta|cart[aã]o|carta|kart[aąy]|visa|amex|カード")
UNIT_AFTER = re.compile(
    r"(?i)\s?(?:times|seconds?|minutes|hours|days|ms|rows?|people|users|items|files|bytes|tokens|calls|records|requests|km|kg"
    r"|[kmg]b|eur|usd|gbp|euros?|dollars?|pounds|points|[%$€£¥×])(?!\w)"
)


def before(text: str, start: int) -> str:
    """Return the context before a number that starts here."""
    return text[max(0, start - BEFORE) : start]


_BEGIN, _END = r"(?a)(?<![\w.+/-])(?<![0-9][ :])", r"(?![\w]|[-.:][0-9])"
_PLUS = re.compile(rf"(?a)(?<![\w+])\+[0-9](?:[ ./()-]{{0,3}}[0-9]){{6,14}}{_END}")
_ZEROS = re.compile(rf"{_BEGIN}00[ ]?[1-9](?:[ ./()-]{{0,3}}[0-9]){{7,13}}{_END}")
_US = re.compile(
    r"(?a)(?<![\w.+/-])(?<![0-9]:)(?:1[-. ])?(?:\([2-9][0-9]{2}\)[ -]?[0-9]{3}[-. ][0-9]{4}"
    rf"|[2-9][0-9]{{2}}(?P<gap>[-. ])[0-9]{{3}}(?P=gap)[0-9]{{4}}){_END}"
)
_NATIONAL = re.compile(
    rf"{_BEGIN}(?:\(0\)[ ]?[1-9][0-9]{{0,4}}|\(0[0-9]{{1,5}}\)|0[1-9][0-9]{{0,4}})"
    rf"(?:(?:[ /-]| / )[0-9]{{2,8}}){{1,5}}(?:-[0-9])?{_END}"
)
_DOTTED = re.compile(rf"{_BEGIN}0[1-9](?:(?:\.[0-9]{{2}}){{4}}|[0-9]{{1,3}}\.[0-9]{{3,4}}\.[0-9]{{3,4}}){_END}")
_BRAZILIAN = re.compile(rf"{_BEGIN}\([1-9][0-9]\)[ ]?[0-9]{{4,5}}-[0-9]{{4}}{_END}")
_AUSTRALIAN = re.compile(rf"{_BEGIN}1[38]00 [0-9]{{3}} [0-9]{{3}}{_END}")
# Without groups, with the trunk prefix 0: ten or eleven digits, as in most of Europe, Asia and Africa
_TRUNK = re.compile(rf"{_BEGIN}0[1-9][0-9]{{8,9}}{_END}")
_UNGROUPED = re.compile(rf"{_BEGIN}\(?[0-9](?:[ -]?\)?[ -]?[0-9]){{6,14}}{_END}")
_EXTENSION = re.compile(r"(?i)[ ,]{0,2}(?:ext(?:ension)?\.?|x|durchwahl|poste|anexo|ramal)[ :]{0,2}[0-9]{1,6}(?!\w)")
_UNIX_TIME = re.compile(r"1[5-9][0-9]{8}(?:[0-9]{3})?")


def phones(text: str, start: int, end: int, regions: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Find telephone numbers among the digits from start to end, extensions included. regions: countries (ISO 3166) whose
    national numbers libphonenumber's tables recognise, whatever the words before them."""
    low, high = max(0, start - 2), min(len(text), end + 2)
    for hit in _PLUS.finditer(text, low, high):
        if _is_possible_number(hit[0]):
            yield _with_extension(text, hit)
    for pattern in (_US, _NATIONAL, _ZEROS, _DOTTED, _BRAZILIAN, _AUSTRALIAN, _TRUNK):
        for hit in pattern.finditer(text, low, high):
            if 9 <= sum(c.isdigit() for c in hit[0]) <= 15 and _is_grouped_phone(text, pattern, hit):
                yield _with_extension(text, hit)
    for hit in _UNGROUPED.finditer(text, low, high):
        if _is_bare_phone(text, hit):
            yield _with_extension(text, hit)
    for region in regions:
        yield from _national(text, low, min(len(text), end + 1), region)


def _is_grouped_phone(text: str, pattern: re.Pattern[str], hit: re.Match[str]) -> bool:
    """Whether a number with the groups of a telephone number is one: yes, unless the words before it name another kind of
    number. US numbers grouped by blanks need a word such as `phone`; after 00 the country must have numbers of this length."""
    words = before(text, hit.start())
    if PHONE_TIGHT.search(words):
        return True
    if NUMBER_WORD.search(words) or (pattern is _ZEROS and not _is_possible_number("+" + hit[0].lstrip("0 "))):
        return False
    if pattern is _NATIONAL and re.fullmatch("[0-9]{2}(?: [0-9]{2}){5,}", hit[0]):
        return False  # pairs of digits: five as in France
    if pattern is _TRUNK:
        return len(set(hit[0])) > 2 and hit[0] not in "01234567890"  # the digits, as in code
    return pattern is not _US or hit["gap"] != " " or bool(PHONE_LOOSE.search(words))


def _is_bare_phone(text: str, hit: re.Match[str]) -> bool:
    """Whether a number without such groups is a telephone number, by the words around it."""
    digits = re.sub(r"[^0-9]", "", hit[0])
    words = before(text, hit.start())
    after_phone_word = bool(PHONE_TIGHT.search(words))
    if _UNIX_TIME.fullmatch(hit[0]) or len(set(digits)) == 1 or _is_amount(text, hit.end(), digits, after_phone_word):
        return False
    if after_phone_word:
        return not (digits.endswith("0000") and digits == hit[0])
    if NUMBER_WORD.search(words):
        return False
    return bool((len(digits) >= 9 and PHONE_LOOSE.search(words)) or PHONE_AFTER.match(text, hit.end()))


def _is_amount(text: str, end: int, digits: str, after_phone_word: bool) -> bool:
    """Whether a unit follows the number, so that it is an amount. No amount has a leading 0, and after `call` nine digits are a
    telephone number, whatever follows: ``Call 8005550199 Calls are free``."""
    is_telephone = digits.startswith("0") or (after_phone_word and len(digits) >= 9)
    return not is_telephone and bool(UNIT_AFTER.match(text, end))


def _national(text: str, low: int, high: int, region: str) -> Iterator[tuple[int, int]]:
    """Find a country's numbers, unless a word before or a unit after the number says that it is another kind. A number must be
    grouped as in its country and in a range in use (for mobile phones, if it has neither groups nor a prefix); or it has
    groups, the prefix 0, and a length in use."""
    import phonenumbers

    mobile = (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE_OR_MOBILE)
    for leniency in (phonenumbers.Leniency.STRICT_GROUPING, phonenumbers.Leniency.POSSIBLE):
        for match in phonenumbers.PhoneNumberMatcher(text[low:high], region, leniency):
            start, end = low + match.start, low + match.end
            prefix, bare = bool(re.match(r"\(?0[1-9]", match.raw_string)), match.raw_string.isdigit()
            digits = re.sub("[^0-9]", "", match.raw_string)
            if leniency == phonenumbers.Leniency.POSSIBLE:
                has_phone_format = prefix and not bare and len(digits) >= 9 and _has_possible_length(match.number)
            else:
                has_phone_format = prefix or not bare or phonenumbers.number_type(match.number) in mobile
            if not has_phone_format or (not prefix and re.fullmatch(r"[0-9]+\.[0-9]+", match.raw_string)):
                continue
            if _is_part_of_more(text, start, end) or len(set(digits)) < 3 or _UNIX_TIME.fullmatch(digits):
                continue
            words = before(text, start)
            if PHONE_TIGHT.search(words) or not (NUMBER_WORD.search(words) or _is_amount(text, end, digits, False)):
                yield start, end


def _is_part_of_more(text: str, start: int, end: int) -> bool:
    """Whether the number is part of something longer."""
    continues_before = re.search(r"(?a)[\w.+/:#$€£<-]\Z|[0-9] \Z", text[max(0, start - 2) : start])
    continues_after = re.match(r"(?a)\w|[-.:/][0-9]|\s?=", text[end : end + 2])
    return bool(continues_before or continues_after)


def _is_possible_number(number: str) -> bool:
    """Whether a number with a country code has a length that exists there (libphonenumber's tables)."""
    import phonenumbers

    try:
        return _has_possible_length(phonenumbers.parse(number.replace("(0)", "")))
    except phonenumbers.NumberParseException:
        return False


def _has_possible_length(number: phonenumbers.PhoneNumber) -> bool:
    import phonenumbers

    return bool(phonenumbers.is_possible_number_with_reason(number) == phonenumbers.ValidationResult.IS_POSSIBLE)


def _with_extension(text: str, hit: re.Match[str]) -> tuple[int, int]:
    extension = _EXTENSION.match(text, hit.end())
    return hit.start(), extension.end() if extension else hit.end()


_CARD = re.compile(r"(?a)(?<![\w.+-])(?<![0-9] )[0-9](?:[ -]?[0-9]){11,18}(?![\w-]|\.[0-9]| [0-9])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,34}")
_WALLET = re.compile(
    r"(?<![A-Za-z0-9])(?:0x[0-9a-fA-F]{40}|bc1[02-9ac-hj-np-z]{11,87}|[13LMDT][1-9A-HJ-NP-Za-km-z]{25,34}"
    r"|[48][0-9AB][1-9A-HJ-NP-Za-km-z]{93})(?![A-Za-z0-9])"
)
_MAESTRO = (50, 56, 57, 58, 63, 67)


def _is_known_issuer(digits: str) -> bool:
    """Whether prefix and length belong to a known card issuer."""
    length, first_two, first_four = len(digits), int(digits[:2]), int(digits[:4])
    return bool(
        (digits[0] == "4" and length in (13, 16, 19))
        or ((51 <= first_two <= 55 or 2221 <= first_four <= 2720) and length == 16)
        or (first_two in (34, 37) and length == 15)
        or ((first_four == 6011 or first_two == 65 or 644 <= int(digits[:3]) <= 649) and length == 16)
        or (3528 <= first_four <= 3589 and length == 16)
        or ((first_two in (36, 38, 39) or 300 <= int(digits[:3]) <= 305) and length == 14)
        or (first_two == 62 and 16 <= length <= 19)
        or (first_two in _MAESTRO and 12 <= length <= 19)
    )


def cards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Find card numbers among the digits from start to end by issuer's prefix, length and Luhn check. One number in ten passes
    the Luhn check by chance, so numbers of orders, parcels and the like are skipped unless a word says card."""
    from stdnum import luhn

    for hit in _CARD.finditer(text, start, end):
        digits = re.sub(r"[ -]", "", hit[0])
        if _is_known_issuer(digits) and luhn.is_valid(digits):
            words = before(text, hit.start())
            is_maestro = int(digits[:2]) in _MAESTRO  # short prefixes and many lengths: too many numbers look like one
            if NUMBER_WORD.search(words) and not CARD_WORD.search(words[-24:]):
                continue
            if CARD_WORD.search(words) or not is_maestro:
                yield hit.span()


def ibans(text: str) -> Iterator[tuple[int, int]]:
    """Find IBANs; words after one, even in capitals, are not part of it."""
    from stdnum import iban

    at = 0
    while hit := _IBAN.search(text, at):
        start, end = hit.span()
        at = start + 1
        while end - start >= 15:
            value = text[start:end]
            ends_here = not text[end : end + 1].isalnum()
            runs_on = not ends_here or (" " in value and value.upper() != value)
            if not runs_on and iban.is_valid(value.replace("-", " "), check_country=False):
                yield start, end
                at = end
                break
            grouped = ends_here or " " in value or "-" in value
            end = max(text.rfind(" ", start, end), text.rfind("-", start, end)) if grouped else 0


def wallets(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Find wallet addresses within a word: Bitcoin, its relatives and Tron by check digits, others by format."""
    hits = _WALLET.finditer(text, start, end)
    return (hit.span() for hit in hits if hit[0][0] not in "13LMDT" or len(hit[0]) > 40 or _has_base58_checksum(hit[0]))


def _has_base58_checksum(value: str) -> bool:
    """Whether the check digits are right (Base58Check): the last 4 of the 25 bytes begin the double SHA-256 of the others."""
    from stdnum.bitcoin import b58decode

    data = b58decode(value)
    return len(data) == 25 and hashlib.sha256(hashlib.sha256(data[:21]).digest()).digest()[:4] == data[21:]


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
    r"|n[eé]e?(?:\(e\))?\sle|naissance|nac[ií](?:d[oa])?|nacimiento|fecha\sde\snac\.?|geboortedatum|urodz\w{1,12}|nascimento|nascid[oa]"
    r"|data\sdi\snascita|född|født)|生年月日|誕生日|出生日期)"
    rf"(?:[\W_]{{1,3}}(?:is|was|on|am|the|le|el|em|il|op|dnia|den|le|es|ist|est|é|to|in))*[\W_]{{0,4}}?(?:は)?(?P<date>{_DATE})(?!\w)"
)
BIRTH_WORDS = "birth,born,dob,d.o.b,geb,nac,nasc,naiss,urodz,né,født,född,生,誕,ne le,nee le".split(",")
"""A lower-case text that mentions a birth holds one of these."""


def birth_dates(text: str) -> Iterator[tuple[int, int]]:
    """Find full dates of birth; ``(born 3 May 1881)`` after a name, as in reference works, is not one."""
    for hit in _BORN.finditer(text):
        if text[max(0, hit.start() - 2) : hit.start()].rstrip()[-1:] != "(":
            yield hit.span("date")
