"""Soft prompts: trained embeddings before every input (prompt tuning), or trained keys and values in every layer (prefix
tuning). PEFT keeps and saves them; what is added here is their beginning, and packed batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values
from transformers import DynamicCache

from finetune_pipeline.faults import JobError


def soft_prompt_kind(model: Any) -> str | None:
    """``prompt`` or ``prefix`` for a PEFT model with a soft prompt, None for any other model."""
    config = getattr(model, "active_peft_config", None)
    kind = str(getattr(getattr(config, "peft_type", None), "value", ""))
    return {"PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}.get(kind)


def virtual_tokens(model: Any) -> tuple[int, int]:
    """(tokens that stand in the sequence before every row, tokens that stand before it as keys and values only)."""
    kind = soft_prompt_kind(model)
    number = model.active_peft_config.num_virtual_tokens if kind else 0
    return (number, 0) if kind == "prompt" else (0, number) if kind == "prefix" else (0, 0)


def first_text(
    init: str, text: str | None, messages: Iterable[Sequence[dict[str, Any]]], labels: Iterable[str]
) -> str | None:
    """The text a soft prompt begins from; None for those that begin from none.

    init ``task``: the commonest system prompt of the training rows, and the labels below it, each once in sorted order.
    """
    if init == "text":
        return text
    if init != "task":
        return None
    prompts = Counter(m["content"] for row in messages for m in row if m["role"] == "system")
    commonest = sorted(prompts, key=lambda p: (-prompts[p], p))[:1]
    return "\n".join([*commonest, *sorted(set(labels))]) or None


def _repeated(ids: Sequence[int], number: int) -> list[int]:
    return (list(ids) * -(-number // len(ids)))[:number]


def add_soft_prompt(base: Any, tokenizer: Any, method: str, settings: dict[str, Any], text: str | None) -> Any:
    """A PEFT model with a float32 soft prompt on `base` (all of it frozen), ready for packed batches.

    method: ``prompt`` or ``prefix``; settings: the section of that name. text: what to begin from (see
    :func:`first_text`), repeated or cut to the number of virtual tokens; None: random, or tokens drawn from the
    vocabulary with init ``vocabulary``.
    """
    number = settings["tokens"]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
    if method == "prompt":
        vocabulary = settings["init"] == "vocabulary"
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=number,
            prompt_tuning_init="SAMPLE_VOCAB" if vocabulary else "RANDOM",
        )
        model: Any = get_peft_model(base, config)
        if ids:
            with torch.no_grad():
                rows = model.word_embeddings(torch.tensor(_repeated(ids, number), device=base.device))
                model.prompt_encoder["default"].embedding.weight.copy_(rows.float())
    else:
        model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=number))
        if ids:
            if tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id:
                ids = [tokenizer.bos_token_id, *ids]
            initialize_kv_prefix_from_past_key_values(
                model, past_key_values=_keys_and_values(base, _repeated(ids, number))
            )
    accept_packed(model)
    return model


@torch.no_grad()
def _keys_and_values(base: Any, ids: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """What each layer of the base model keeps of a text: (keys, values) of shape [1, heads, tokens, d], in float32."""
    cache = DynamicCache()
    training = base.training
    base.eval()
    base(input_ids=torch.tensor([list(ids)], device=base.device), cache=cache, use_cache=True, logits_to_keep=1)
    base.train(training)
    layers: list[Any] = list(cache.layers)
    if not all(isinstance(getattr(layer, "keys", None), torch.Tensor) for layer in layers):
        raise JobError(
            f"{base.config.model_type} has layers without keys and values, which prefix tuning trains\n"
            "fix: use another method"
        )
    return [(layer.keys.float(), layer.values.float()) for layer in layers]


def accept_packed(model: Any) -> None:
    """Have the model's forward take packed batches (argument ``shared_prefix``), in which the soft prompt stands once.

    PEFT's own forward, which repeats it for every row and makes the mask anew, goes on to serve all other calls.
    """
    plain = model.forward

    def forward(*args: Any, shared_prefix: Any = None, **kwargs: Any) -> Any:
        if shared_prefix is None:
            return plain(*args, **kwargs)
        base = model.get_base_model()
        if soft_prompt_kind(model) == "prefix":
            return base(*args, cache=model.get_prompt(1), shared_prefix=shared_prefix, **kwargs)
        rows = model.word_embeddings(kwargs.pop("input_ids"))
        rows = torch.cat([model.get_prompt(1).to(rows.dtype), rows], 1)
        return base(*args, inputs_embeds=rows, shared_prefix=shared_prefix, **kwargs)

    model.forward = forward
