"""Trained models that a service hosts: their endpoint, and errors for operations that need weights."""

import shutil
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import read_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.facts import MergedModel, Parity, Serving
from finetune_pipeline.spec.baseline import ChatEndpointSpec, address_problem

ENDPOINT_FILE = "endpoint.json"
"""File in the artifacts of ``adapter`` and ``merged_model`` if the trainer returned no weights."""


class HostedModel(Facts, frozen=True, kw_only=True, omit_defaults=False, forbid_unknown_fields=True):
    """A model at an OpenAI-style endpoint (base_url: without /chat/completions), as a trainer writes it to endpoint.json.
    api_key_env: variable that holds the key, which is never stored. base_model: the base's name at the service."""

    base_url: str
    model: Annotated[str, msgspec.Meta(min_length=1)]
    api_key_env: str | None = None
    trainer: Annotated[str, msgspec.Meta(min_length=1)]
    base_model: Annotated[str, msgspec.Meta(min_length=1)]

    def __post_init__(self) -> None:
        if problem := address_problem(self.base_url):
            raise ValueError(f"base_url: {problem[0]}")

    @property
    def place(self) -> str:
        """Model and host, for messages."""
        return f"{self.model} at {urlsplit(self.base_url).hostname}"

    @property
    def endpoint(self) -> ChatEndpointSpec:
        """The endpoint that serves it."""
        return ChatEndpointSpec(url=self.base_url, key_variable=self.api_key_env)

    def cannot(self, operation: str) -> str:
        """Return the error for an operation (a past participle: "exported") that needs weights, with a fix."""
        key = f", with the key in {self.api_key_env}" if self.api_key_env else ""
        return (
            f"{self.place} is hosted by its trainer ({self.trainer}) and has no weights here: it cannot be {operation}\n"
            f"fix: query it at {self.base_url}{key}, or train with a trainer that returns weights"
        )


def read_hosted(folder: Path) -> HostedModel | None:
    """Read the hosted model of an ``adapter`` or ``merged_model`` artifact; None if it has weights. Raises JobError if
    endpoint.json is invalid."""
    path = folder / ENDPOINT_FILE
    if not path.is_file():
        return None
    try:
        return HostedModel.of(read_json(path))
    except ValueError as error:
        problem = f"{ENDPOINT_FILE} of the trained model: {error}"
        raise JobError(problem, "correct the trainer that wrote it") from error


def pass_on(hosted: HostedModel, adapter: Path, out: Path, serving: Serving) -> MergedModel:
    """Write the ``merged_model`` of a hosted model: its endpoint.json, and facts that say there was nothing to merge."""
    shutil.copyfile(adapter / ENDPOINT_FILE, out / ENDPOINT_FILE)
    return MergedModel(
        kind="endpoint",
        base_model=hosted.base_model,
        dtype="as its service serves it",
        sentence=f"{hosted.place}: there is nothing to merge and nothing to compare",
        serving=serving,
        parity=Parity(kind="endpoint", rows=0, passed=True),
    )
