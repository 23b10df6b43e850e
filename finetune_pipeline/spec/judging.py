"""A language model that compares answers, and what it must show before anybody believes it."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from finetune_pipeline.spec.outputs import Section, Share


class JudgeSpec(Section):
    """A model behind an OpenAI-style endpoint that says which of two answers is better. The texts of the test go there.

    It is asked only once people have rated enough pairs (`finetune review`), and believed only if it agrees with them.
    """

    url: str = Field(min_length=1, description="Up to and without /chat/completions; https, or http on this machine.")
    model: str = Field(min_length=1, description="Name of the judging model there; best one that is pinned.")
    key_variable: str | None = Field(None, description="Environment variable that holds the key.")
    rows: int = Field(200, ge=1, description="Test rows it compares at most, drawn by their id; each is asked twice.")
    min_rated: int = Field(30, ge=10, description="Pairs of different answers that people must have rated first.")
    min_kappa: float = Field(0.6, gt=0, lt=1, description="Agreement with people beyond chance (Cohen's kappa).")
    min_kappa_bound: float = Field(0.4, ge=0, lt=1, description="What the lower bound of kappa must reach.")
    min_consistent: Share = Field(0.8, description="Share of pairs it must judge alike when the answers change places.")
    max_tokens: int = Field(2_000_000, ge=1, description="That a run may spend, of prompts and answers together.")
    timeout: float = Field(60.0, gt=0, description="Seconds for a whole request.")
    concurrency: int = Field(4, ge=1, le=64, description="Requests at once.")
    body: dict[str, Any] = Field(
        default_factory=dict, description="Fields of the request to add or replace; null removes one."
    )

    def settings(self) -> dict[str, Any]:
        """The part of this that what the judge says and whether it is believed depend on."""
        return self.model_dump(exclude={"key_variable", "max_tokens", "timeout", "concurrency"})
