"""The model behind the server, loaded and prompted as in the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any


@dataclass(frozen=True)
class Champion:
    """The model that serves.

    model, adapter: see models.identity.Served; precision: of evaluation.precision.
    """

    task: str
    version: int
    model: Path
    adapter: Path | None
    system_prompt: str
    max_new_tokens: int
    precision: str = "serving"

    @property
    def name(self) -> str:
        """How the model calls itself to clients and in the logs."""
        return f"{self.task}:{self.version}"


@dataclass(frozen=True)
class Reply:
    """An answer, how it ended (`stop`, or `length` where max_new_tokens cut it), and its numbers of tokens."""

    text: str
    finish: str
    prompt_tokens: int
    new_tokens: int


class TooLong(ValueError):
    """The conversation does not fit into the model's context."""


class LoadedModel:
    """A champion in memory. One answer is made at a time; callers from several threads wait for each other."""

    def __init__(self, champion: Champion) -> None:
        from finetune_pipeline.models.chat import load_tokenizer
        from finetune_pipeline.models.loading import load_for_prediction, pick_device

        self.champion = champion
        self._model = load_for_prediction(champion.model, pick_device(), champion.adapter, champion.precision)
        self._tokenizer = load_tokenizer(champion.model)
        self._lock = Lock()

    def answer(self, messages: Sequence[Mapping[str, Any]], max_new_tokens: int | None = None) -> Reply:
        """Greedy answer to a conversation without its system turn; at most the length the evaluation allowed.

        Raises TooLong, FindingsError when the chat template refuses the turns, and RuntimeError when the model fails.
        """
        from finetune_pipeline.models.chat import encode_prompt
        from finetune_pipeline.models.inference.generation import generate_and_score

        turns = [{"role": "system", "content": self.champion.system_prompt}, *(dict(m) for m in messages)]
        most = min(max_new_tokens or self.champion.max_new_tokens, self.champion.max_new_tokens)
        with self._lock:
            prompt = encode_prompt(self._tokenizer, turns)
            (made,) = generate_and_score(
                self._model, self._tokenizer, [prompt], None, most, 1, stage="serve", name=self.champion.name
            )
        if made.status == "error":
            if "tokens" in made.error and "more than" in made.error:
                raise TooLong(made.error)
            raise RuntimeError(made.error)
        return Reply(
            made.text.strip(), "length" if made.status == "truncated" else "stop", made.prompt_tokens, made.new_tokens
        )
