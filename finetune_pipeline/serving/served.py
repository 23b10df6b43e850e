"""What a client gets, and what the log keeps of it: the champion's answer, the fallback's, or a refusal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_pipeline.serving.fallback import SecondAnswer
from finetune_pipeline.serving.sureness import AnySureness


@dataclass(frozen=True)
class Served:
    """What a client gets.

    Attributes:
        text: None of a refusal.
        answered_by: Who answered in place of the champion; None: itself.
        second: What the fallback said, if it was asked.
        own: The champion's answer, if the client gets another.
    """

    text: str | None
    sure: AnySureness | None = None
    logprobs: dict[str, Any] | None = None
    refusal: str | None = None
    answered_by: str | None = None
    second: SecondAnswer | None = None
    own: str | None = None

    @property
    def logged(self) -> str:
        """The answer in the log: where nobody answered, the champion's, for whoever decides about it."""
        return (self.own or "") if self.text is None else self.text

    def facts(self) -> dict[str, object]:
        """Return the fields of the response's choice and of the log, besides the answer."""
        return (self.sure.facts() if self.sure else {}) | (
            {"answered_by": self.answered_by} if self.answered_by else {}
        )

    def metadata(self) -> dict[str, object]:
        """Return the fields of the log that nothing reads: what the fallback cost or why it failed, and the champion's answer."""
        facts: dict[str, object] = {"fallback": self.second.facts()} if self.second else {}
        if self.own is not None:
            facts["own_answer"] = self.own
        return {"metadata": facts} if facts else {}
