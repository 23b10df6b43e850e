"""The four kinds of model that training can leave, in words and in folders. No torch: assets and pages import this.

``lora``: merged into the base (methods qlora and lora). ``full``: the trained weights, taken over. ``prompt``: a plain model
with added tokens. ``prefix``: an adapter behind which the base stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune_pipeline.engine.store import Artifact

WHOLE = ("full", "prompt")
"""Kinds whose stored model is what the registry refers to; of the others it keeps the adapter, and refers to the base."""


@dataclass(frozen=True, slots=True)
class Words:
    """trained, served: the two sides of merge_parity. what: the served model, as a sentence about it begins."""

    trained: str
    served: str
    what: str


WORDS = {
    "lora": Words("adapter on the base", "merged model", "The adapter merged into the unquantized base"),
    "full": Words("trained weights", "stored model", "The trained weights, taken over without a merge"),
    "prompt": Words(
        "prompt under PEFT", "plain model with added tokens", "A plain model whose added tokens are the trained prompt"
    ),
    "prefix": Words("prefix under PEFT", "base behind the prefix", "The prefix as an adapter in front of the base"),
}


def words_of(kind: str | None) -> Words:
    """The words for a kind; those of a merge where it is not known."""
    return WORDS.get(str(kind), WORDS["lora"])


@dataclass(frozen=True, slots=True)
class Served:
    """What has to be loaded to get a model's answers: a model folder or artifact, and a prefix to put in front, if any."""

    model: Path
    adapter: Path | None = None


def served(merged: Artifact, base: Artifact) -> Served:
    """How the artifact of ``merged_model`` is loaded; `base`: the artifact of the base model it was made from."""
    if merged.facts["kind"] == "prefix":
        return Served(base.folder, merged.path("adapter"))
    return Served(merged.folder)
