"""Errors that come from outside the program, a full disk or an MLflow that cannot be reached, in words for people."""

from __future__ import annotations

import errno
from collections.abc import Iterator

FULL = (errno.ENOSPC, errno.EDQUOT)
_SQLITE_FULL = "database or disk is full"


def words_of(error: BaseException) -> str | None:
    """What is wrong outside and what to do; None: the error is the program's own, and its traceback is wanted."""
    from finetune_pipeline.tracking.mlflow_store import TrackingError

    for link in _chain(error):
        if isinstance(link, TrackingError):
            return str(link)
        if (isinstance(link, OSError) and link.errno in FULL) or _SQLITE_FULL in str(link):
            from finetune_pipeline.settings import read_settings

            place = getattr(link, "filename", None) or read_settings().home
            return (
                f"the disk is full: {place} could not be written\n"
                "fix: make space, or move FINETUNE_HOME to a larger disk, and run it again; what was made is kept"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and the ones it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
