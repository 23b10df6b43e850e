"""Lets a candidate answer a share of the conversations in place of the champion: `finetune serve --share`.

Who gets it is decided by a hash of the user, or without one, of the conversation's first message, so that nobody changes models in
the middle. Where the candidate fails, the champion answers; the row still counts for the candidate.
"""

from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Any

from finetune_pipeline.production.share_rows import Assignment, in_share
from finetune_pipeline.serving.loading import AnyServed, Loaded, load
from finetune_pipeline.serving.requests import Chat


class Share:
    """A candidate that answers a share of the conversations. Thread-safe.

    Args:
        served: The candidate.
        percent: Of the users or conversations, above 0 and below 100.
        tell: Informs the operator.
        loaded: The candidate, if it is in memory already.

    Attributes:
        loaded: The candidate in memory; None if it cannot be loaded: then the champion answers everything.
    """

    def __init__(
        self, served: AnyServed, percent: float, tell: Callable[[str], None], loaded: Loaded | None = None
    ) -> None:
        self.name, self.percent, self._tell = served.name, percent, tell
        self._counts, self._lock, self._problem = Counter[str](), Lock(), ""
        self.loaded = loaded
        try:
            self.loaded = loaded or load(served)
        except Exception as error:  # noqa: BLE001 - the champion answers, and the operator and /health are informed
            self._problem = f"it cannot be loaded: {type(error).__name__}: {error}"
            tell(f"{self.name} answers no conversation, the champion answers all: {self._problem}")

    def facts(self) -> dict[str, Any]:
        """Return how many rows the candidate has answered, on how many it failed, and the last problem."""
        with self._lock:
            counts = {name: self._counts[name] for name in ("answered", "failed", "is_champion")}
        return {"model": self.name, "percent": self.percent, **counts, "problem": self._problem}

    def assign(self, chat: Chat, champion: str) -> Assignment | None:
        """Assign a conversation to one of the models; None if the candidate is the champion now."""
        if champion == self.name:
            with self._lock:
                self._counts["is_champion"] += 1
            return None
        unit = f"user:{chat.user}" if chat.user else chat.messages[0]["content"]
        return Assignment(champion, self.name, self.percent, in_share(unit, self.name, self.percent))

    def answered(self) -> None:
        """Count a row that the candidate has answered."""
        with self._lock:
            self._counts["answered"] += 1

    def failed(self, problem: str) -> None:
        """Count a row that the champion answers in its place; inform the operator of a new problem."""
        with self._lock:
            self._counts["failed"] += 1
            is_new, self._problem = problem != self._problem, problem
        if is_new:
            self._tell(f"{self.name} failed on a row, which the champion answers: {problem}; /health counts them")
