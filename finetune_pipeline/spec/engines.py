"""What runs the models whose test answers are compared."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from finetune_pipeline.spec.judging import JudgeSpec
from finetune_pipeline.spec.outputs import Section

VERSION = "{version}"
"""Stands for the version of ``merged_model`` in the name of a served model."""


class EndpointSpec(Section):
    """An OpenAI-style endpoint that serves the models. Test rows are sent there. The key stays in the environment."""

    url: str = Field(description="Up to and without /chat/completions; https, or http on this machine.")
    key_variable: str | None = Field(None, description="The environment variable that holds the key.")
    base: str = Field(description="Name under which the base model is served.")
    candidate: str = Field(
        description="Name under which the candidate is served. It must hold {version}, which becomes the version of "
        "merged_model, so that a model of yesterday is not taken for today's."
    )
    champion: str | None = Field(None, description="The same for the champion. Unset: as `candidate`.")
    timeout: float = Field(60.0, gt=0, description="Seconds for one request.")
    concurrency: int = Field(4, ge=1, le=256, description="Requests at a time.")
    tries: int = Field(4, ge=1, description="How often a request is sent at most; what may have cost is sent once.")
    max_tokens: int | None = Field(None, ge=1, description="Tokens that may be spent in a run, prompts included.")


class EvaluationSpec(Section):
    """How the answers to the test are made (base, candidate and champion all in the same way), and who compares them."""

    engine: Literal["transformers", "vllm", "endpoint"] = Field(
        "transformers",
        description="`transformers`: in float32, on any machine. `vllm`: in float32 by vLLM, where it is installed. "
        "`endpoint`: the models as they are served.",
    )
    endpoint: EndpointSpec | None = Field(None, description="With engine: endpoint.")
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
        if self.engine == "transformers":
            return []
        if self.endpoint is None or self.engine != "endpoint":
            return [self.engine]
        return [self.engine, self.endpoint.model_dump(include={"url", "base", "candidate", "champion"})]
