"""Attention of many rows to one common prefix, without copying or reading its keys and values for each row.

Attention over [prefix, own tokens] is attention over each of the two, weighted by their log-sum-exps (Juravsky et al. 2024,
"Hydragen"). One product takes the queries of all rows to the prefix, and the batch's cache holds the rows' own tokens only.
Measured gain: benchmarks/results/2026-11-29-evaluation-speed.txt.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "common_prefix"
_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments with which architectures change attention scores."""


def switch_on(model: Any) -> bool:
    """Set the model's attention function to :func:`_attend`, which takes `common_prefix` (a cache of one row) and otherwise
    computes what ``sdpa`` does. Returns False, and changes nothing, if the device or the model cannot use it."""
    config = model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", NAME):
        return False
    if model.device.type != "cpu" or not hasattr(torch.ops.aten, _KERNEL):
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    return True


def refuse_changed_scores(arguments: Mapping[str, object], place: str, *others: str) -> None:
    """Raise ValueError if an architecture passes arguments that change attention scores, or some `others`."""
    if unknown := [name for name in (*others, *_CHANGES_SCORES) if arguments.get(name) is not None]:
        raise ValueError(f"attention with {', '.join(unknown)} is not computed {place}")


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    common_prefix: DynamicCache | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in transformers' interface. key, value, attention_mask: of the rows' own tokens."""
    if common_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    refuse_changed_scores(kwargs, "behind a common prefix", "sliding_window")
    layer: Any = common_prefix.layers[int(module.layer_idx)]  # type: ignore[arg-type]
    return behind_prefix(query, layer.keys, layer.values, key, value, attention_mask, scaling).transpose(1, 2), None


def behind_prefix(
    query: torch.Tensor,
    prefix_keys: torch.Tensor,
    prefix_values: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
) -> torch.Tensor:
    """Return the attention [rows, heads, tokens, width] of `query` over a common prefix and each row's own keys.

    Args:
        query: [rows, heads, tokens, width].
        prefix_keys, prefix_values: [1, key heads, prefix tokens, width]; every query sees all of them.
        keys, values: [rows, key heads, own tokens, width].
        mask: [rows, 1, tokens, own tokens], True (or 0) where a query sees a key. None: a single query sees all keys, and of as
            many queries as keys, each sees the keys up to its own.
    """
    rows, heads, tokens, width = query.shape
    key_heads = keys.shape[1]
    queries_per_head = heads // key_heads * tokens  # queries of one head of keys
    grouped = query.reshape(rows, key_heads, queries_per_head, width)
    flash = getattr(torch.ops.aten, _KERNEL)
    all_queries = grouped.transpose(0, 1).reshape(1, key_heads, rows * queries_per_head, width)
    prefix_output, prefix_weight = flash(all_queries, prefix_keys, prefix_values, 0.0, False, scale=scaling)
    prefix_output = prefix_output.reshape(key_heads, rows, queries_per_head, width).transpose(0, 1)
    prefix_weight = prefix_weight.reshape(key_heads, rows, queries_per_head).transpose(0, 1)
    bias = _bias(query, keys, mask, heads // key_heads)
    own_output, own_weight = flash(grouped, keys, values, 0.0, False, attn_mask=bias, scale=scaling)
    share = torch.sigmoid(own_weight - prefix_weight).unsqueeze(-1)
    return torch.lerp(prefix_output.float(), own_output.float(), share).to(query.dtype).reshape(query.shape)


def _bias(query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, group: int) -> torch.Tensor | None:
    """Return the bias of the scores, [rows, 1, group * tokens, own tokens]. It has the lowest number in place of -inf: a padding
    token sees no key of its own row, so -inf would give NaN."""
    tokens = query.shape[2]
    if mask is None:
        if tokens == 1:
            return None
        mask = torch.ones(1, 1, tokens, keys.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, lowest)
    return mask.repeat(1, 1, group, 1) if tokens > 1 else mask
