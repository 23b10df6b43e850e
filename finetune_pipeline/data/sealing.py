"""Encrypts the test split, so that only the step that records its opening can read it.

A sealed file is one or more chunks: a marker line, 8 bytes of length, and the rows encrypted with AES-SIV (RFC 5297). AES-SIV
is deterministic: the same split gives the same bytes again. The key is derived from the store's key file, which only its
owner can read. This protects against code that trains on or selects by the test by mistake. It does not protect against
somebody who has access to the store and wants to read it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

MAGIC = b"finetune: sealed test rows\n"
_CHUNK = 1 << 24
_LENGTH = 8


class SealedError(PermissionError):
    """The sealed test was read without permission or with the wrong key."""


def seal_key(store_key: bytes) -> bytes:
    """The 64 bytes the test is sealed with, derived from the store's key."""
    return hmac.new(store_key, b"finetune_pipeline sealed test", hashlib.sha512).digest()


def seal(rows: bytes, key: bytes) -> bytes:
    """The sealed form of whole lines."""
    cipher, sealed = AESSIV(key), []
    for chunk in _chunks(rows):
        data = cipher.encrypt(chunk, [MAGIC])
        sealed += [MAGIC, len(data).to_bytes(_LENGTH, "big"), data]
    return b"".join(sealed)


def _chunks(rows: bytes) -> Iterator[bytes]:
    begin = 0
    while begin < len(rows):
        end = rows.find(b"\n", min(begin + _CHUNK, len(rows)) - 1)
        end = len(rows) if end < 0 else end + 1
        yield rows[begin:end]
        begin = end


def unseal(data: bytes, key: bytes) -> bytes:
    """The rows of a sealed file. Raises SealedError if it is not sealed, is damaged, or was sealed with another key."""
    cipher, rows, at = AESSIV(key), [], 0
    while at < len(data):
        begin = at + len(MAGIC) + _LENGTH
        if data[at : at + len(MAGIC)] != MAGIC:
            raise SealedError("this is not a sealed test, or it was damaged")
        end = begin + int.from_bytes(data[begin - _LENGTH : begin], "big")
        try:
            rows.append(cipher.decrypt(data[begin:end], [MAGIC]))
        except (InvalidTag, ValueError) as error:
            raise SealedError(
                "the sealed test was damaged, or sealed with another key: restore the store's key file, or make the "
                "splits again"
            ) from error
        at = end
    return b"".join(rows)


def is_sealed(beginning: bytes) -> bool:
    """Whether a file that begins like this is a sealed test."""
    return beginning.startswith(MAGIC)


def refuse_sealed(beginning: bytes, place: str) -> None:
    """Raise SealedError when a file that begins like this is a sealed test. Every reader of examples calls this."""
    if is_sealed(beginning):
        raise SealedError(
            f"{place} is the sealed test. Only test_predictions opens it, on the record; nothing may be trained on it, "
            "chosen by it or shown from it. Use the train or validation split."
        )
