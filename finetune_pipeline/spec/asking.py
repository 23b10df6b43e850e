"""What is asked before anybody trains: how the base model is prompted."""

from __future__ import annotations

from pydantic import Field

from finetune_pipeline.spec.endpoints import ChatEndpointSpec
from finetune_pipeline.spec.outputs import Section, Share


class ApiModelSpec(ChatEndpointSpec):
    """An API model that is asked the same, through an OpenAI-style endpoint. It costs money, and the texts of the validation
    rows go there; those of the test too when this model's prompt is the best one."""

    model: str = Field(min_length=1)
    max_requests: int = Field(2000, ge=1, description="Requests a run may send.")
    max_tokens: int = Field(2_000_000, ge=1, description="Tokens a run may spend, prompts and answers.")


class BaselineSpec(Section):
    """How the base model is prompted before anybody trains."""

    shots: list[int] = Field([0, 8], min_length=1, description="Numbers of in-context examples to try; 0 is zero-shot.")
    retrieved: int = Field(
        3,
        ge=0,
        description="Nearest training examples to show each row. 0: none.",
    )
    prompts: list[str] = Field(
        default_factory=list,
        description="Other system prompts to try, each with every number of `shots`.",
    )
    rows: int = Field(300, ge=1, description="Validation rows asked with each prompt.")
    endpoint: ApiModelSpec | None = Field(None, description="An API model to ask as well; none unless set.")
    seed: int = Field(0, ge=0)
    max_new_tokens: int = Field(12, ge=1, description="Longest free answer of a label task, in tokens.")
    ceiling: Share = Field(0.9, description="If something simpler surely reaches this, do not fine-tune.")
    batch_size: int = Field(16, ge=1, description="Rows per batch, the same for all compared models.")


class AdviseSpec(Section):
    """What `finetune advise` should know besides the data."""

    calls_per_month: int | None = Field(None, ge=1, description="Expected calls in production.")
    dollars_per_million_tokens: float | None = Field(
        None, ge=0, description="Cost of tokens read and written, own machines included."
    )
    private: bool = Field(False, description="Texts must stay on your machines: remote endpoints are refused.")
