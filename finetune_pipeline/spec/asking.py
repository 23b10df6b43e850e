"""What is asked before anybody trains: how the base model is prompted."""

from __future__ import annotations

from pydantic import Field

from finetune_pipeline.spec.endpoints import ChatEndpointSpec
from finetune_pipeline.spec.outputs import Section, Share


class ApiModelSpec(ChatEndpointSpec):
    """An API model that is asked the same, through an OpenAI-style endpoint. It costs money, and the texts of the validation
    rows go there; those of the test too when this model's prompt is the best one."""

    model: str = Field(min_length=1)
    max_requests: int = Field(2000, ge=1, description="More rows than this are not sent at all.")
    max_tokens: int = Field(
        2_000_000, ge=1, description="Of prompts and answers together; what could exceed it is not sent."
    )


class BaselineSpec(Section):
    """How the base model is prompted before anybody trains."""

    shots: list[int] = Field([0, 8], min_length=1, description="Numbers of in-context examples to try; 0 is zero-shot.")
    retrieved: int = Field(
        3,
        ge=0,
        description="Also show each row so many of the training examples most like it, the likest last. 0: do not.",
    )
    prompts: list[str] = Field(
        default_factory=list,
        description="Other system prompts to try in place of system_prompt, each with every number of `shots`.",
    )
    rows: int = Field(
        300, ge=1, description="Validation rows that are asked at most, drawn by their id: each prompt asks every one."
    )
    endpoint: ApiModelSpec | None = Field(None, description="An API model to ask the same; none unless given.")
    seed: int = Field(0, ge=0)
    max_new_tokens: int = Field(12, ge=1, description="Longest free answer of a label task, in tokens.")
    ceiling: Share = Field(0.9, description="Prompting surely better than this means: do not fine-tune.")
    batch_size: int = Field(16, ge=1, description="Rows generated at once, the same for every model compared.")


class AdviseSpec(Section):
    """What `finetune advise` should know besides the data."""

    calls_per_month: int | None = Field(None, ge=1, description="How often production will ask the model.")
    dollars_per_million_tokens: float | None = Field(
        None, ge=0, description="What the tokens of a call cost, read and written alike; own machines included."
    )
    private: bool = Field(False, description="The texts must not leave your machines: no endpoint elsewhere is asked.")
