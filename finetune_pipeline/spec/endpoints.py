"""An OpenAI-style chat endpoint in task.yaml: its settings, and the rules about its address."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import Field

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.outputs import Section

_LOCAL = ("127.0.0.1", "localhost", "::1")


class ChatEndpointSpec(Section):
    """Where a model is asked, and how patiently. The key stays in the environment."""

    url: str = Field(min_length=1, description="Address without /chat/completions; https, or http on this machine.")
    key_variable: str | None = Field(None, description="Environment variable that holds the key.")
    timeout: float = Field(60.0, gt=0, description="Seconds per request.")
    concurrency: int = Field(4, ge=1, le=256, description="Parallel requests.")
    tries: int = Field(4, ge=1, description="Attempts per request; a request that may have cost money is sent once.")
    body: dict[str, Any] = Field(
        default_factory=dict, description="Request fields to add or replace; null removes one."
    )


PATIENCE = {"key_variable", "timeout", "concurrency", "tries", "max_tokens", "max_requests"}
"""Settings of an endpoint on which no answer depends."""


def is_local(url: str) -> bool:
    """Whether the address is on this machine."""
    return urlsplit(url).hostname in _LOCAL


def address_problem(url: str) -> tuple[str, str] | None:
    """(what is wrong with an address, what to do); None: nothing."""
    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_local(url))):
        message = f"{url!r} is neither https nor on this machine: texts and the key would travel in the clear"
        return message, "write https://…, or http://127.0.0.1:PORT/v1"
    if parts.username or parts.password:
        return "the address holds a login", "put the key into an environment variable, and name it in key_variable"
    return None


def address_findings(rule: str, key: str, url: str, texts: str, private: bool) -> list[Finding]:
    """Findings about an endpoint's address.

    Args:
        rule: Id of the rule.
        key: The endpoint's key in task.yaml.
        url: The address.
        texts: What is sent there, for the note.
        private: Whether texts must not leave this machine.
    """
    place = f"task.yaml: {key}.url"
    if problem := address_problem(url):
        return [Finding(f"spec.{rule}", "error", place, *problem)]
    if is_local(url):
        return []
    message = f"{texts} are sent to {urlsplit(url).hostname}"
    fix = "serve the model on this machine, if they must not leave it"
    return [Finding(f"spec.{rule}", "error" if private else "note", place, message, fix)]
