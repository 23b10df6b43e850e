"""Sections of task.yaml on the baseline, the advice before training, and OpenAI-style chat endpoints."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field

from finetune_pipeline.spec.outputs import Section, Seed, Share

_LOCAL = ("127.0.0.1", "localhost", "::1")


class ChatEndpointSpec(Section):
    """Address, timeouts and retries of a model's endpoint. The key stays in the environment."""

    url: str = Field(min_length=1, description="Address without /chat/completions; https, or http on this machine.")
    key_variable: str | None = Field(None, description="Environment variable that holds the key.")
    timeout: float = Field(60.0, gt=0, description="Seconds per request.")
    concurrency: int = Field(4, ge=1, le=256, description="Parallel requests.")
    tries: int = Field(4, ge=1, description="Attempts per request; a request that may have cost money is sent once.")
    body: dict[str, Any] = Field({}, description="Request fields to add or replace; null removes one.")


PATIENCE = {"key_variable", "timeout", "concurrency", "tries", "max_tokens", "max_requests"}
"""Settings of an endpoint that do not affect answers."""


def is_local(url: str) -> bool:
    """Whether the address is on this machine."""
    return urlsplit(url).hostname in _LOCAL


def address_problem(url: str) -> tuple[str, str] | None:
    """Return (the problem of an address, what to do), or None."""
    fix = "write https://…, or http://127.0.0.1:PORT/v1"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        return f"{url!r} is not an address: {error}", fix
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_local(url))):
        return f"{url!r} is neither https nor on this machine: texts and the key would be sent unencrypted", fix
    if parts.username or parts.password:
        fix = "put the key into an environment variable and set key_variable to its name"
        return "the address contains credentials", fix
    return None


class ApiModelSpec(ChatEndpointSpec):
    """An API model to compare with, at an OpenAI-style endpoint. It costs money, and receives the texts of the validation and
    test rows."""

    model: str = Field(min_length=1)
    max_requests: int = Field(2000, ge=1, description="Maximum requests per run.")
    max_tokens: int = Field(2_000_000, ge=1, description="Maximum tokens per run, prompts and answers.")


class BaselineSpec(Section):
    """How the base model is prompted before training."""

    shots: list[int] = Field([0, 8], min_length=1, description="Numbers of in-context examples to try; 0 is zero-shot.")
    retrieved: int = Field(3, ge=0, description="Nearest training examples to show each row. 0: none.")
    embeddings: str | None = Field(
        None,
        description="Static embeddings to find the nearest examples, besides TF-IDF: `wordllama` (extra `semantic`), `hashed`, "
        "or a model2vec folder.",
    )
    encoder: str | None = Field(
        None,
        description="Sentence encoder for a simple model of labels: `bundled/minilm`, `wordllama` (extra `semantic`), or a folder "
        "with a transformer or static embeddings.",
    )
    documents: int = Field(
        3, ge=0, description="Nearest passages of the folder `documents/` to show each row. 0: none."
    )
    prompts: list[str] = Field([], description="Other system prompts to try, each with every number of `shots`.")
    rows: int = Field(300, ge=1, description="Validation rows asked with each prompt.")
    endpoint: ApiModelSpec | None = Field(None, description="An API model to ask as well; none unless set.")
    seed: Seed = 0
    max_new_tokens: int = Field(12, ge=1, description="Longest free answer of a label task, in tokens.")
    ceiling: Share = Field(0.9, description="If something simpler significantly exceeds this, do not fine-tune.")
    batch_size: int = Field(16, ge=1, description="Rows per batch, the same for all compared models.")


class AdviseSpec(Section):
    """Facts for `finetune advise` besides the data."""

    calls_per_month: int | None = Field(None, ge=1, description="Expected calls in production.")
    dollars_per_million_tokens: float | None = Field(
        None, ge=0, description="Cost of input and output tokens, own machines included."
    )
    max_cost_per_1k: float | None = Field(None, ge=0, description="Maximum dollars per 1,000 calls.")
    max_latency_ms: float | None = Field(None, gt=0, description="Maximum latency (95th percentile), measured here.")
    private: bool = Field(False, description="Texts must stay on your machines: remote endpoints are refused.")

    @property
    def limited(self) -> bool:
        """Whether limits of cost or latency may exclude a rung."""
        return self.max_cost_per_1k is not None or self.max_latency_ms is not None


class LadderSpec(Section):
    """What `finetune advise --measure` tries before training on all rows."""

    pilot: list[Annotated[Share, Field(gt=0, lt=1)]] = Field(
        [0.125, 0.25, 0.5], description="Shares of the training rows that the pilot trains on. Empty: no pilot."
    )
