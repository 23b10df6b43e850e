"""The sealed test is stored unreadable, so that only whoever opens it on the record can read it.

A sealed file is one or more chunks: a line that says what it is, 8 bytes of length, and the rows under AES-SIV
(RFC 5297), whose result depends on nothing but key and rows: the same split gives the same bytes again. The key follows
from the store's own key file, which only its owner can read. This keeps code that is handed the file by mistake from
learning or choosing by it; it does not keep out somebody who may read the store and wants to.
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
    """Somebody tried to read the sealed test who may not, or with a key that is not its own."""


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
    """The rows of a sealed file. Raises SealedError when it is none, is damaged, or was sealed with another key."""
    cipher, rows, at = AESSIV(key), [], 0
    while at < len(data):
        begin = at + len(MAGIC) + _LENGTH
        if data[at : at + len(MAGIC)] != MAGIC:
            raise SealedError("this is no sealed test, or one that was damaged")
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
    """Raises SealedError when a file that begins like this is a sealed test: said by every reader of examples."""
    if is_sealed(beginning):
        raise SealedError(
            f"{place} is the sealed test. Only test_predictions opens it, on the record; nothing may be trained on it, "
            "chosen by it or shown from it. Use the train or validation split."
        )
