"""Which side of a pair is which model: a secret of the project decides, so that no page and no file can give it away."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

_BYTES = 32


def load_secret(path: Path) -> bytes:
    """The 32 secret bytes in a file only its owner can read; made when it is not there. Safe in several processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        told = path.read_bytes()
        if len(told) != _BYTES:
            raise ValueError(
                f"{path.name} does not hold {_BYTES} bytes: remove it, and begin the review anew"
            ) from None
        return told
    with os.fdopen(handle, "wb") as out:
        made = secrets.token_bytes(_BYTES)
        out.write(made)
        out.flush()
        os.fsync(out.fileno())
    return made


def keyed(secret: bytes, *parts: str) -> bytes:
    """32 bytes that follow from the secret and the parts, and from which neither can be told (HMAC-SHA-256)."""
    return hmac.new(secret, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256).digest()


def candidate_is_a(secret: bytes, sheet: str, item: str) -> bool:
    """Whether side A of this item shows the candidate. Half of the items, in no order anybody could see."""
    return keyed(secret, "side", sheet, item)[0] % 2 == 0
