"""Answers conversations with a simple model, which needs a language model and torch only if it reads texts with one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock
from typing import Any

from finetune_pipeline.evaluation.simple_models import load_simple_model
from finetune_pipeline.models.inference.generated import Answer


@dataclass(frozen=True)
class ServedSimple:
    """The simple model to serve.

    Attributes:
        name: For clients and in the logs: TASK:VERSION.
        folder: As SimpleModel.save wrote it.
        system_prompt: That of the task, which clients may send; the model does not read it.
        json_schema: Of its answers, which clients may ask for.
    """

    name: str
    folder: Path
    system_prompt: str
    json_schema: Mapping[str, Any] | None = None


class LoadedSimple:
    """A simple model in memory. Like :class:`.loaded_model.LoadedModel`."""

    def __init__(self, served: ServedSimple) -> None:
        self.served = served
        self._model = load_simple_model(served.folder)
        self.turn = Lock()

    def answer(
        self, messages: Sequence[Mapping[str, Any]], max_new_tokens: int | None, gone: Event, constrained: bool = False
    ) -> Answer:
        """Answer a conversation. An answer has no tokens, so neither the length limit nor constrained decoding applies."""
        text = "\n".join(str(message["content"]) for message in messages if message["role"] == "user")
        (answer,) = self._model.predict([text])
        return Answer(text=answer, status="ok" if answer.strip() else "empty")
