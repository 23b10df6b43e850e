"""Reports progress messages of a child process: to standard error, and to Dagster if Pipes started it."""

import os
import sys
from collections.abc import Callable

from finetune_pipeline.escaping import printable
from finetune_pipeline.progress import VARIABLE

_listeners: list[Callable[[str], None]] = []
_muted: list[bool] = []


def listen(listener: Callable[[str], None]) -> None:
    """Pass every later message to `listener` too."""
    _listeners.append(listener)


def mute() -> None:
    """Stop reporting, since only the first of several processes that train together reports."""
    _muted.append(True)


def say(message: str) -> None:
    """Print one line. Meant for a few dozen lines per run; finer progress goes through `finetune_pipeline.progress`.

    If a terminal already follows the progress file, the line is not repeated there.
    """
    message = printable(message)
    if _muted:
        return
    if not os.environ.get(VARIABLE):
        print(message, file=sys.stderr, flush=True)
    for listener in _listeners:
        listener(message)
