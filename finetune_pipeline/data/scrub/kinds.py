"""Kinds of personal data and secrets, matches, equality of values, and keyed fingerprints."""

import hmac
import ipaddress
import os
import re
import secrets as random
import unicodedata
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from finetune_pipeline.data.dedup.text_similarity import visible_text
from finetune_pipeline.findings import Finding, FindingsError

SHAPE_KINDS = ("secret", "wallet", "email", "iban", "card", "national_id", "ip", "mac", "birth_date", "phone")
"""Found by format, check digits and surrounding words; always enabled."""
KINDS = (*SHAPE_KINDS, "address", "name")
"""All kinds, the last two with ``data.scrub_names``; if two match the same characters, the earlier wins."""

KEY_BYTES = 32
_LOOSE = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Span:
    """One hit: characters start to end (exclusive) of a text are of this kind."""

    start: int
    end: int
    kind: str


def canonical(kind: str, value: str) -> str:
    """Return the canonical form of a value, equal for all its spellings: ``DE89 3704`` and ``de893704``."""
    if not value.isascii():
        value = unicodedata.normalize("NFKC", visible_text(value))
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


def fingerprint(key: bytes, kind: str, value: str) -> str:
    """Return the first 32 hex digits of HMAC-SHA256 (RFC 2104) over kind, a zero byte, and the value's canonical form. Without
    the key nobody can recover the value, while a plain hash of a telephone number can be brute-forced."""
    message = f"{kind}\0{canonical(kind, value)}".encode("utf-8", "surrogatepass")
    return hmac.digest(key, message, "sha256").hex()[:32]


def load_key(path: Path) -> bytes:
    """Read the 32 bytes of a key file. If it is missing, create a random key that only its owner can read. The first writer
    wins, and nobody sees a partial file. Raises FindingsError if the file is not a key, or if users other than its owner
    can read it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as out:
            out.write(random.token_bytes(KEY_BYTES))
            out.flush()
            os.fsync(out.fileno())
            with suppress(FileExistsError):  # somebody else was first
                os.link(out.name, path)
    key, mode = path.read_bytes(), path.stat().st_mode
    if len(key) != KEY_BYTES:
        fix = "restore the key from a copy, or delete the file to get a new key"
        message = f"holds {len(key)} bytes, but a key has {KEY_BYTES}"
    elif os.name == "posix" and mode & 0o077:
        message, fix = f"other users can read the key (mode {mode & 0o777:o})", f"chmod 600 {path}"
    else:
        return key
    raise FindingsError([Finding("data.scrub_key", "error", str(path), message, fix)])
