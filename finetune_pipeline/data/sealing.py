"""Encrypts the test split, so that only the step that records its opening can read it.

A sealed file is a marker line and the rows encrypted with AES-SIV (RFC 5297), which is deterministic: the same split
gives the same bytes. The key is derived from the store's key file. This protects against code that trains on or selects
by the test by mistake, not against somebody who has access to the store and wants to read it.
"""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

MAGIC = b"finetune: sealed test rows\n"


class SealedError(PermissionError):
    """The sealed test was read without permission or with the wrong key."""


def seal_key(store_key: bytes) -> bytes:
    """The 64 bytes the test is sealed with, derived from the store's key."""
    return hmac.new(store_key, b"finetune_pipeline sealed test", hashlib.sha512).digest()


def seal(rows: bytes, key: bytes) -> bytes:
    return MAGIC + AESSIV(key).encrypt(rows, [MAGIC]) if rows else b""


def unseal(data: bytes, key: bytes) -> bytes:
    """The rows of a sealed file. Raises SealedError if it is not sealed, is damaged, or was sealed with another key."""
    if not data:
        return b""
    if not data.startswith(MAGIC):
        raise SealedError("this is not a sealed test, or it was damaged")
    try:
        return AESSIV(key).decrypt(data[len(MAGIC) :], [MAGIC])
    except (InvalidTag, ValueError) as error:
        raise SealedError(
            "the sealed test was damaged, or sealed with another key: restore the store's key file, or make the splits again"
        ) from error


def refuse_sealed(beginning: bytes, place: str) -> None:
    """Raise SealedError when a file that begins like this is a sealed test. Every reader of examples calls this."""
    if beginning.startswith(MAGIC):
        raise SealedError(
            f"{place} is the sealed test. Only test_predictions opens it, on the record; nothing may be trained on it, "
            "chosen by it or shown from it. Use the train or validation split."
        )
