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
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        config = json.loads((model_folder / "tokenizer_config.json").read_text("utf-8"))
        source = chat_template or own_template(model_folder)
        if not source:
            raise FileNotFoundError(f"no chat template in {model_folder.name}: start from an instruct model")
        self.template = compile_template(source)
        self.special = {
            k: v["content"] if isinstance(v, dict) else v for k, v in config.items() if k.endswith("_token") and v
        }
        eos = self.special.get("eos_token")
        self.eos_token_id = self.tokenizer.token_to_id(eos) if isinstance(eos, str) else None
        generation = model_folder / "generation_config.json"
        told = json.loads(generation.read_text("utf-8")).get("eos_token_id") if generation.exists() else None
        self.end_token_ids = told if isinstance(told, list) else [] if told is None else [told]

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

    def apply_chat_template(
        self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = False, tools: Any = None, **_: Any
    ) -> str:
        """The text of a conversation, under the name transformers has for it: what encodes training rows
        (:mod:`finetune_pipeline.models.chat`) then encodes them here too."""
        return str(
            self.template.render(
                messages=list(messages), tools=tools, add_generation_prompt=add_generation_prompt, **self.special
            )
        )

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Tokens of a text, under transformers' name."""
        return {"input_ids": self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """The text of tokens, special ones included, under transformers' name."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

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
