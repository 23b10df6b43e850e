"""Keeping keys out of what is recorded: values of secret environment variables, and fields named like secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(
    r"(^|[._-])(api[_-]?key|access[_-]?key|secret([_-]?key)?|auth[_-]?token|access[_-]?token"
    r"|token|password|passwd|authorization|credentials?)$",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_SHORTEST = 8
_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@")


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with every value of a secret environment variable, and every login in an address, replaced.

    A variable is secret if its name ends in KEY, TOKEN, SECRET, PASSWORD or CREDENTIALS and its value has 8 characters
    or more (shorter ones would hit ordinary words).
    """
    env = os.environ if environment is None else environment
    secrets = {v: n for n, v in env.items() if _SECRET_VARIABLE.search(n) and len(v) >= _SHORTEST}
    for value in sorted(secrets, key=len, reverse=True):
        text = text.replace(value, f"[{secrets[value]} redacted]")
    return _IN_ADDRESS.sub("[redacted]@", text)


def redact_field(name: str, value: object) -> str:
    """A field's value as text; all of it is replaced if the field's name says that it is a secret."""
    if isinstance(value, str) and value and _SECRET_NAME.search(name):
        return "[redacted]"
    return redact(str(value))
