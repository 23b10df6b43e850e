"""Exact token counts without loading a model library: the tokenizer file and the chat template are enough."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from finetune_pipeline.data.examples import Example
from finetune_pipeline.models.base_template import own_template
from finetune_pipeline.models.template_engine import compile_template
from finetune_pipeline.models.turns import for_template


class TokenCounter:
    """Counts the tokens of a conversation as the model will see it: template rendered, then tokenized.

    Raises FileNotFoundError when the folder has no tokenizer.json or no chat template.
    """

    def __init__(
        self, model_folder: Path, chat_template: str | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        """chat_template: instead of the folder's own; tokenizer: the folder's, where it is at hand already."""
        self.tokenizer = tokenizer or Tokenizer.from_file(str(model_folder / "tokenizer.json"))
        config = json.loads((model_folder / "tokenizer_config.json").read_text("utf-8"))
        source = chat_template or own_template(model_folder)
        if not source:
            raise FileNotFoundError(f"no chat template in {model_folder.name}: start from an instruct model")
        self.template = compile_template(source)
        self.special = {
            k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token") and v
        }

    def count(
        self, messages: Sequence[dict[str, Any]], generation_prompt: bool = False, tools: Sequence[Any] | None = None
    ) -> int:
        """Tokens of a conversation; with `generation_prompt`, of the prompt a model is to continue."""
        return len(self.tokenizer.encode(self.render(messages, generation_prompt, tools), add_special_tokens=False).ids)

    def render(
        self, messages: Sequence[dict[str, Any]], generation_prompt: bool = False, tools: Sequence[Any] | None = None
    ) -> str:
        """A conversation as the text that is tokenized. Raises jinja2.TemplateError where the template refuses it."""
        return str(
            self.template.render(
                messages=[for_template(m) for m in messages],
                add_generation_prompt=generation_prompt,
                tools=list(tools) if tools else None,
                **self.special,
            )
        )

    def count_texts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text as it stands, many at once."""
        return [len(e.ids) for e in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def token_statistics(counter: TokenCounter, examples: Sequence[Example]) -> dict[str, Any]:
    """Tokens per example: total, mean, percentiles, prompt and answer apart, and a histogram (upper edge: rows)."""
    whole = sorted(counter.count(e.messages, tools=e.tools) for e in examples)
    prompts = [counter.count(e.prompt_messages, True, e.tools) for e in examples]

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
