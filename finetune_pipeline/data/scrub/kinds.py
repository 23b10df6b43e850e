"""The kinds of personal data and secrets that are looked for, what one hit is, and when two values are the same."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

SHAPE_KINDS = (
    "secret",
    "wallet",
    "email",
    "iban",
    "card",
    "national_id",
    "ip",
    "mac",
    "birth_date",
    "phone",
)
"""Found by shape, check digits and the words around them; always looked for."""
MODEL_KINDS = ("address", "name")
"""Found with the recogniser model, where the task asks for it (``data.scrub_names``)."""
KINDS = SHAPE_KINDS + MODEL_KINDS
"""All kinds; where two fit the same characters, the earlier one wins."""

_LOOSE = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Span:
    """One hit: characters start to end (exclusive) of a text are of this kind."""

    start: int
    end: int
    kind: str


def canonical(kind: str, value: str) -> str:
    """The form in which two spellings of one value are equal: ``DE89 3704`` and ``de893704``, ``A@b.com`` and ``a@b.com``."""
    if kind == "email":
        return re.sub(r"\s*[\[(]\s*(at|dot)\s*[\])]\s*", lambda m: "@" if m[1] == "at" else ".", value.casefold())
    if kind == "phone":
        digits = re.sub(r"[^0-9+]", "", value.replace("(0)", "") if "+" in value else value)
        return "+" + digits[2:] if digits.startswith("00") else digits
    if kind in ("iban", "card", "national_id", "mac"):
        return _LOOSE.sub("", value).upper()
    if kind == "ip":
        try:
            return str(ipaddress.ip_address(value))
        except ValueError:
            return value
    if kind in ("name", "address", "birth_date"):
        return _LOOSE.sub(" ", value).strip().casefold()
    return value
