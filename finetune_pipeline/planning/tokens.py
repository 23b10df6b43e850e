"""Exact token counts without loading a model library: the tokenizer file and the chat template are enough."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from finetune_pipeline.data.examples import Example


def _raise(message: str) -> None:
    raise ValueError(f"the chat template refuses these messages: {message}")


class TokenCounter:
    """Counts the tokens of a conversation as the model will see it: template rendered, then tokenized.

    The template runs in Jinja's immutable sandbox with the block trimming that transformers uses.
    Raises FileNotFoundError when the folder has no tokenizer.json or no chat template.
    """

    def __init__(self, model_folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
        config = json.loads((model_folder / "tokenizer_config.json").read_text("utf-8"))
        separate = model_folder / "chat_template.jinja"
        source = separate.read_text("utf-8") if separate.exists() else config.get("chat_template")
        if not source:
            raise FileNotFoundError(f"no chat template in {model_folder.name}: start from an instruct model")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        environment.filters["tojson"] = lambda value, **kw: json.dumps(value, ensure_ascii=False, **kw)
        self.template = environment.from_string(source)
        self.special = {
            k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token") and v
        }

    def count(self, messages: Sequence[dict[str, Any]], generation_prompt: bool = False) -> int:
        """Tokens of a conversation; with `generation_prompt`, of the prompt a model is to continue."""
        return len(self.tokenizer.encode(self.render(messages, generation_prompt), add_special_tokens=False).ids)

    def render(self, messages: Sequence[dict[str, Any]], generation_prompt: bool = False) -> str:
        """A conversation as the text that is tokenized. Raises ValueError where the template refuses it."""
        return str(
            self.template.render(messages=list(messages), add_generation_prompt=generation_prompt, **self.special)
        )

    def count_texts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it stands, many at once."""
        return [len(e.ids) for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def token_statistics(counter: TokenCounter, examples: Sequence[Example]) -> dict[str, Any]:
    """Tokens per example: total, mean, percentiles, prompt and answer apart, and a histogram (upper edge: rows)."""
    whole = sorted(counter.count(e.messages) for e in examples)
    prompts = [counter.count(e.prompt_messages, generation_prompt=True) for e in examples]

    def at(share: float) -> int:
        return whole[min(int(share * len(whole)), len(whole) - 1)] if whole else 0

    step = max(16, -(-(whole[-1] if whole else 16) // 160) * 16)
    edges = range(step, (whole[-1] if whole else 0) + step, step)
    return {
        "examples": len(whole),
        "total": sum(whole),
        "mean": round(sum(whole) / max(len(whole), 1), 1),
        "p50": at(0.5),
        "p90": at(0.9),
        "p99": at(0.99),
        "longest": whole[-1] if whole else 0,
        "prompt_total": sum(prompts),
        "answer_total": sum(whole) - sum(prompts),
        "histogram": {str(edge): sum(edge - step < n <= edge for n in whole) for edge in edges},
        "lengths": whole,
    }
