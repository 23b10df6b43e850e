"""What the words before a number say it is: a phone, an order, a version."""

from __future__ import annotations

import re

BEFORE = 60
"""Characters before a number that are looked at."""

_PHONE_NOUN = (
    r"phones?|telephones?|tele[fp]h?on\w*|t[eé]l[eé]phone|tel[eé]fono|t[eé]l|tlf|mobi[el]\w*|m[oó]vil|cell\w*|celular|handy\w*"
    r"|portable|gsm|whats\s?app|fax|sms|kom[oó]rk\w*|rufnummer|landline|(?:support|info|service)\s?line|switchboard|hotline|helpline"
)
# The number follows at once, but for small words.
PHONE_TIGHT = re.compile(
    rf"(?i)(?:(?<![^\W_])(?:{_PHONE_NOUN}|call|ring|reach|text|dial|callback|contact|anrufen|appel\w*|ll[aá]ma\w*|bel|dzwo\w+"
    r"|zadzwo\w+|lig[au]\w*|chiama\w*)(?:[\W_]{1,3}(?:me|us|him|her|them|back|numbers?|nummer|num[eé]ro|n[uú]mero|numer|no|nr"
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
    r"(?i)(?:(?<![^\W_])(?:order|invoice|ticket|case|ref|reference|sku|ids?|account|acct|po|tracking|serial|part|batch|lot"
    r"|build|commit|customer|booking|parcel|shipment|transaction|request|job|process|pid|row|item|article|contract|policy"
    r"|isbn|issn|ean|gtin|upc|doi|vin|oid|model|error|fedex|ups|usps|dhl|version|code|voucher|coupon|receipt|product"
    r"|\w*bestell\w*|\w*artikel\w*|\w*rechnung\w*|\w*sendung\w*|\w*auftrag\w*|\w*vertrag\w*|\w*vorgang\w*|\w*kunden\w*"
    r"|commande|facture|r[eé]f[eé]rence|colis|pedido|factura|fatura|bestelling\w*|factuur|zam[oó]wieni\w+|faktur\w+|ordine|fattura"
    r")s?(?:[\W_]{1,3}(?:numbers?|nummer|num[eé]ro|n[uú]mero|no|nr|n|id|is|was|code|ref))*|\#|[nN][°º]|注文番号|番号)[^\w(+]{0,3}$"
)
_LETTERS = re.compile(r"[^\W\d_]+")
CARD_WORD = re.compile(r"(?i)card|\bcc\b|karte|carte|tarjeta|cart[aã]o|carta|kart[aąy]|visa|amex|カード")
UNIT_AFTER = re.compile(
    r"(?i)\s?(?:times|seconds?|minutes|hours|days|ms|rows?|people|users|items|files|bytes|tokens|calls|records|requests|km|kg"
    r"|[kmg]b|eur|usd|gbp|euros?|dollars?|pounds|points|[%$€£¥×])(?!\w)"
)


def before(text: str, start: int) -> str:
    """The characters before a number that tell what it is."""
    return text[max(0, start - BEFORE) : start]


def stems(words: str) -> set[str]:
    """How each word begins: its first four letters, in lower case."""
    return {word[:4] for word in _LETTERS.findall(words.lower())}
