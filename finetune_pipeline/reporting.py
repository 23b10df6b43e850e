"""Where a child process says what it does: standard error, and Dagster when it was started under Pipes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from finetune_pipeline.progress import VARIABLE

_listeners: list[Callable[[str], None]] = []
_muted: list[bool] = []


def listen(listener: Callable[[str], None]) -> None:
    """Hand every later message to `listener` as well."""
    _listeners.append(listener)


def mute() -> None:
    """Say nothing any more: of several processes that train together only the first one tells."""
    _muted.append(True)


def say(message: str) -> None:
    """One line for people. Meant for a few dozen lines a run; finer progress goes through `finetune_pipeline.progress`.

    Where a terminal follows the progress file already, the same in other words would only be noise on it.
    """
    if _muted:
        return
    if not os.environ.get(VARIABLE):
        print(message, file=sys.stderr, flush=True)
    for listener in _listeners:
        listener(message)
