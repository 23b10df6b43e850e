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

    base: str = Field(description="Name under which the base model is served.")
    candidate: str = Field(
        description="Name under which the candidate is served. It must hold {version}, which becomes the version of "
        "merged_model, so that a model of yesterday is not taken for today's."
    )
    champion: str | None = Field(None, description="The same for the champion. Unset: as `candidate`.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens that may be spent in a run, prompts included.")


class JudgeSpec(ChatEndpointSpec):
    """A model behind an OpenAI-style endpoint that says which of two answers is better. The texts of the test go there.

    It is asked only once people have rated enough pairs (`finetune review`), and believed only if it agrees with them.
    """

    model: str = Field(min_length=1, description="Name of the judging model there; best one that is pinned.")
    rows: int = Field(200, ge=1, description="Test rows it compares at most, drawn by their id; each is asked twice.")
    min_rated: int = Field(30, ge=10, description="Pairs of different answers that people must have rated first.")
    min_kappa: float = Field(0.6, gt=0, lt=1, description="Agreement with people beyond chance (Cohen's kappa).")
    min_kappa_bound: float = Field(0.4, ge=0, lt=1, description="What the lower bound of kappa must reach.")
    min_consistent: Share = Field(0.8, description="Share of pairs it must judge alike when the answers change places.")
    max_tokens: int = Field(2_000_000, ge=1, description="That a run may spend, of prompts and answers together.")

    def settings(self) -> dict[str, Any]:
        """The part of this that the judge's answers and whether it is believed depend on."""
        return self.model_dump(exclude=PATIENCE)


class EvaluationSpec(Section):
    """How the answers to the test are made (base, candidate and champion all in the same way), and who compares them."""

    engine: Literal["transformers", "endpoint"] = Field(
        "transformers",
        description="`transformers`: in float32, on any machine. `endpoint`: the models as they are served, by vLLM or "
        "anything else that speaks OpenAI's protocol.",
    )
    endpoint: ServedModelsSpec | None = Field(None, description="With engine: endpoint.")
    judge: JudgeSpec | None = Field(
        None,
        description="A language model that compares base and candidate, believed only if it agrees with people "
        "(docs/evaluation.md); none unless given.",
    )
    similarity: str | None = Field(
        None,
        min_length=1,
        description="Likeness to the reference answers by embeddings: `hashed`, `wordllama`, or a folder with static "
        "embeddings. Not measured unless given.",
    )

    def settings(self) -> list[Any]:
        """The part of this that the answers depend on; nothing with the default engine."""
        if self.endpoint is None or self.engine != "endpoint":
            return []
        return [self.engine, self.endpoint.model_dump(include={"url", "base", "candidate", "champion", "body"})]
