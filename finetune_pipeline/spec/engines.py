"""What runs the models whose test answers are compared, and the language model that may judge them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetune_pipeline.spec.endpoints import PATIENCE, ChatEndpointSpec
from finetune_pipeline.spec.outputs import Section, Share

VERSION = "{version}"
"""Stands for the version of ``merged_model`` in the name of a served model."""


class ServedModelsSpec(ChatEndpointSpec):
    """An OpenAI-style endpoint that serves the models. Test rows are sent there."""

    base: str = Field(description="Served name of the base model.")
    candidate: str = Field(
        description="Served name of the candidate. It must contain {version}, the version of merged_model."
    )
    champion: str | None = Field(None, description="Served name of the champion. Unset: as `candidate`.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens a run may spend, prompts included.")


class JudgeSpec(ChatEndpointSpec):
    """A model behind an OpenAI-style endpoint that says which of two answers is better. The texts of the test go there.

    It is asked only once people have rated enough pairs (`finetune review`), and believed only if it agrees with them.
    """

    model: str = Field(min_length=1, description="Name of the judge model; pin a version.")
    rows: int = Field(200, ge=1, description="Test rows to compare; each is asked twice.")
    min_rated: int = Field(30, ge=10, description="Pairs of different answers people must rate first.")
    min_kappa: float = Field(0.6, gt=0, lt=1, description="Required agreement with people (Cohen's kappa).")
    min_kappa_bound: float = Field(0.4, ge=0, lt=1, description="Required lower bound of kappa.")
    min_consistent: Share = Field(0.8, description="Share of pairs it must judge alike in both orders.")
    max_tokens: int = Field(2_000_000, ge=1, description="Tokens a run may spend, prompts and answers.")

    def settings(self) -> dict[str, Any]:
        """The part of this that the judge's answers and whether it is believed depend on."""
        return self.model_dump(exclude=PATIENCE)


class EvaluationSpec(Section):
    """How the answers to the test are made (base, candidate and champion all in the same way), and who compares them."""

    engine: Literal["transformers", "endpoint"] = Field(
        "transformers",
        description="`transformers` (float32, here) or `endpoint` (served by vLLM or any OpenAI-style server).",
    )
    endpoint: ServedModelsSpec | None = Field(None, description="With engine: endpoint.")
    judge: JudgeSpec | None = Field(
        None,
        description="A language model that compares answers (docs/review.md); none unless set.",
    )
    similarity: str | None = Field(
        None,
        min_length=1,
        description="Embedding similarity to the reference answers: `hashed`, `wordllama`, or a folder with static embeddings.",
    )

    def settings(self) -> list[Any]:
        """The part of this that the answers depend on; nothing with the default engine."""
        if self.endpoint is None or self.engine != "endpoint":
            return []
        return [self.engine, self.endpoint.model_dump(include={"url", "base", "candidate", "champion", "body"})]
