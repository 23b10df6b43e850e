"""Which conversations a candidate answers in place of the champion (`finetune serve --share`), and what the log says of it.

An answer's line has the key ``share``, with the fields of :class:`Assignment`.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated

import msgspec

from finetune_pipeline.evaluation.production_rows import LoggedRow

Name = Annotated[str, msgspec.Meta(min_length=1)]


class Assignment(msgspec.Struct, frozen=True):
    """To which of two models a conversation was assigned, by chance.

    Attributes:
        champion, candidate: Versions of the two.
        percent: Chance of the candidate.
        chosen: Whether it was assigned to the candidate. If that failed, the row's `model_version` is the champion.
        seconds: Time for the answer, without waiting for its turn.
    """

    champion: Name
    candidate: Name
    percent: Annotated[float, msgspec.Meta(gt=0, lt=100)]
    chosen: bool
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0

    @property
    def pair(self) -> tuple[str, str]:
        """The versions of the champion and of the candidate."""
        return self.champion, self.candidate


def in_share(unit: str, candidate: str, percent: float) -> bool:
    """Whether a candidate answers a user's, or else a conversation's, questions.

    A unit stays where it is; a larger share keeps the units of a smaller one. Each candidate gets other units.
    """
    digest = hashlib.sha256(f"share:{candidate}:{unit}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) * 100 < percent * 2**64


def share_problem(row: Mapping[str, object]) -> str | None:
    """Return what is wrong with the key `share` of a decoded line, or None."""
    try:
        if row.get("share") is not None:
            msgspec.convert(row["share"], Assignment)
    except msgspec.ValidationError as error:
        return f"'share' is not what a server writes: {error}"
    return None


def assignment_of(row: LoggedRow) -> Assignment | None:
    """Return the assignment of a row as merge_lines returns it; None if there is none."""
    return msgspec.convert(row["share"], Assignment) if row.get("share") else None


def unit_of(row: LoggedRow) -> str:
    """Return who was assigned: the user of a row as merge_lines returns it, else the conversation by its first message."""
    return (
        f"user:{row['user']}" if row.get("user") else str(row["turns"][0]["content"] if row["turns"] else row["input"])
    )
