"""Attention of many rows to one common prefix, whose keys and values are neither copied for each row nor read for each row.

Attention over [prefix, own tokens] is attention over each of the two, weighted by their log-sum-exps (Juravsky et al. 2024,
"Hydragen"). All rows' queries of the prefix together are one product, and the batch's cache holds the rows' own tokens only.
What that and reading rows of similar length together gain: benchmarks/results/2026-11-29-evaluation-speed.txt.
"""

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "common_prefix"
_KERNEL = "_scaled_dot_product_flash_attention_for_cpu"
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias", "head_mask")
"""Arguments with which architectures change what a token sees, or how much of it."""


def switch_on(model: Any) -> bool:
    """Make the attention function the one here, which takes `common_prefix` (a cache of one row); without it, it computes what
    ``sdpa`` does. Returns False, and changes nothing, where the device or the model cannot use it."""
    config = model.config.get_text_config()
    if config._attn_implementation not in ("sdpa", NAME):
        return False
    if model.device.type != "cpu" or not hasattr(torch.ops.aten, _KERNEL):
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    config._attn_implementation = NAME
    return True


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
    if unknown := [name for name in _UNSUPPORTED if kwargs.get(name) is not None]:
        raise ValueError(f"attention with {', '.join(unknown)} is not computed behind a common prefix")
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
        mask: [rows, 1, tokens, own tokens], True (or 0) where a query sees a key. None: one query, which sees all of them, or as
            many queries as keys, each seeing those up to its own.
    """
    rows, heads, tokens, width = query.shape
    shared = keys.shape[1]
    of_head = heads // shared * tokens  # queries of one head of keys
    grouped = query.reshape(rows, shared, of_head, width)
    flash = getattr(torch.ops.aten, _KERNEL)
    together = grouped.transpose(0, 1).reshape(1, shared, rows * of_head, width)
    first, weight = flash(together, prefix_keys, prefix_values, 0.0, False, scale=scaling)
    first = first.reshape(shared, rows, of_head, width).transpose(0, 1)
    weight = weight.reshape(shared, rows, of_head).transpose(0, 1)
    bias = _bias(query, keys, mask, heads // shared)
    own, own_weight = flash(grouped, keys, values, 0.0, False, attn_mask=bias, scale=scaling)
    share = torch.sigmoid(own_weight - weight).unsqueeze(-1)
    return torch.lerp(first.float(), own.float(), share).to(query.dtype).reshape(query.shape)


def _bias(query: torch.Tensor, keys: torch.Tensor, mask: torch.Tensor | None, group: int) -> torch.Tensor | None:
    """Return what is added to the scores, [rows, 1, group * tokens, own tokens]: the lowest number in place of -inf, with which a
    token of padding, that sees no key of its own row, would become not a number."""
    tokens = query.shape[2]
    if mask is None:
        if tokens == 1:
            return None
        mask = torch.ones(1, 1, tokens, keys.shape[2], dtype=torch.bool, device=query.device).tril()
    if mask.dtype == torch.bool:
        lowest = torch.finfo(query.dtype).min
        mask = torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill_(~mask, lowest)
    return mask.repeat(1, 1, group, 1) if tokens > 1 else mask
