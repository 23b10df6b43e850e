"""Where a child process says what it does: standard error, and Dagster when it was started under Pipes."""

from __future__ import annotations

import sys
from collections.abc import Callable

_listeners: list[Callable[[str], None]] = []


def listen(listener: Callable[[str], None]) -> None:
    """Hand every later message to `listener` as well."""
    _listeners.append(listener)


def say(message: str) -> None:
    """One line for people. Meant for a few dozen lines a run; finer progress goes through `finetune_pipeline.progress`."""
    print(message, file=sys.stderr, flush=True)
    for listener in _listeners:
        listener(message)
