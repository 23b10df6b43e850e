"""Attention over a packed batch: one common prefix, then the rows' suffixes, each seeing the prefix and itself.

A dense mask over the packed sequence would cost the square of its length, most of it masked out. Here the suffixes are
taken in buckets of similar length, as one batched matrix product a bucket. Reordering into buckets and back is one
gather each, by indices made once a batch and used by every layer; the backward pass is written out, since it needs
nothing but the attention weights again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "shared_prefix"
_LARGEST_BUCKET = 8
_FILLED = 0.7


@dataclass(frozen=True)
class _Bucket:
    """Rows of similar length: `rows` padded to `length`, behind `prefix` shared keys; spans in the gathered tensors."""

    rows: int
    length: int
    prefix: int
    queries: slice
    keys: slice
    mask: torch.Tensor  # [length, prefix + length], 0 or -inf


@dataclass(frozen=True)
class _Plan:
    """Gather indices for one number of heads. Queries are flattened as [T * heads, d], keys as [T * key heads, d].

    to_queries: [key head, row, head in group, position] of every bucket in turn; padding repeats a row's last token and
    is listed in `padding`. to_keys: [key head, row, prefix and position]. from_queries, from_keys: the way back (for
    keys: to a token's place as its own row's key, not as a shared prefix).
    """

    buckets: list[_Bucket]
    to_queries: torch.Tensor
    from_queries: torch.Tensor
    padding: torch.Tensor
    to_keys: torch.Tensor
    from_keys: torch.Tensor


@dataclass
class Layout:
    """How rows lie in a packed sequence: `prefix` tokens, then suffixes of `lengths` tokens, longest first."""

    prefix: int
    lengths: list[int]
    _plans: dict[Any, _Plan] = field(default_factory=dict, repr=False)

    def plan(self, heads: int, key_heads: int, device: torch.device, dtype: torch.dtype) -> _Plan:
        """The gather plan for attention with so many heads; made at the first call, then kept."""
        key = (heads, key_heads, device, dtype)
        if key not in self._plans:
            self._plans[key] = _make_plan(self.prefix, self.lengths, heads, key_heads, device, dtype)
        return self._plans[key]


def _group(lengths: Sequence[int]) -> list[list[int]]:
    groups: list[list[int]] = []
    for n in lengths:
        if groups and len(groups[-1]) < _LARGEST_BUCKET and n >= _FILLED * groups[-1][0]:
            groups[-1].append(n)
        else:
            groups.append([n])
    return groups


def _make_plan(
    prefix: int, lengths: Sequence[int], heads: int, key_heads: int, device: torch.device, dtype: torch.dtype
) -> _Plan:
    group = heads // key_heads
    start = n_queries = n_keys = 0
    buckets, to_q, from_q, padding, to_k, from_k = [], [], [], [], [], []
    for number, own in enumerate([[prefix], *_group(lengths)] if prefix else _group(lengths)):
        shared = prefix if prefix and number else 0
        rows, length = len(own), own[0]
        sizes = torch.tensor(own)[:, None]
        column = torch.arange(length)[None, :]
        real = column < sizes
        token = start + torch.cumsum(sizes, 0) - sizes + torch.minimum(column, sizes - 1)  # [rows, length]
        start += sum(own)
        head = torch.arange(heads).view(key_heads, 1, group, 1)
        queries = token[None, :, None, :] * heads + head  # [key_heads, rows, group, length]
        place = n_queries + torch.arange(queries.numel()).view(queries.shape)
        shown = real[None, :, None, :].expand(queries.shape)
        padding.append(place[~shown])
        from_q.append(torch.stack([queries[shown], place[shown]]))
        seen = torch.cat([torch.arange(shared).expand(rows, shared), token], 1)
        kept = torch.arange(key_heads).view(-1, 1, 1)
        keys = seen[None] * key_heads + kept  # [key_heads, rows, shared + length]
        place = n_keys + torch.arange(keys.numel()).view(keys.shape)
        mine = torch.cat([torch.zeros(rows, shared, dtype=torch.bool), real], 1).expand(keys.shape)
        from_k.append(torch.stack([keys[mine], place[mine]]))
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        mask = torch.zeros(length, shared + length, dtype=dtype)
        mask[:, shared:].masked_fill_(hidden, float("-inf"))
        buckets.append(
            _Bucket(
                rows,
                length,
                shared,
                slice(n_queries, n_queries + queries.numel()),
                slice(n_keys, n_keys + keys.numel()),
                mask.to(device),
            )
        )
        to_q.append(queries.flatten())
        to_k.append(keys.flatten())
        n_queries += queries.numel()
        n_keys += keys.numel()

    def inverse(pairs: list[torch.Tensor]) -> torch.Tensor:
        told = torch.cat(pairs, 1)
        back = torch.empty(told.shape[1], dtype=torch.long)
        back[told[0]] = told[1]
        return back.to(device)

    return _Plan(
        buckets,
        torch.cat(to_q).to(device),
        inverse(from_q),
        torch.cat(padding).to(device),
        torch.cat(to_k).to(device),
        inverse(from_k),
    )


class _PackedAttention(torch.autograd.Function):
    """query [T, H, d], key and value [T, K, d] with H a multiple of K; result [T, H, d]."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: Layout, scaling: float
    ) -> torch.Tensor:
        dim, kv = query.shape[-1], key.shape[1]
        plan = layout.plan(query.shape[1], kv, query.device, query.dtype)
        q = query.reshape(-1, dim).index_select(0, plan.to_queries).mul_(scaling)
        k = key.reshape(-1, dim).index_select(0, plan.to_keys)
        v = value.reshape(-1, dim).index_select(0, plan.to_keys)
        result = torch.empty_like(q)
        saved = []
        for b in plan.buckets:
            n = kv * b.rows
            scores = torch.bmm(q[b.queries].view(n, -1, dim), k[b.keys].view(n, -1, dim).transpose(1, 2))
            scores.view(n, -1, *b.mask.shape).add_(b.mask)
            weights = torch.softmax(scores, -1)
            torch.bmm(weights, v[b.keys].view(n, -1, dim), out=result[b.queries].view(n, -1, dim))
            saved.append(weights)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.plan, ctx.prefix, ctx.scaling, ctx.kv = plan, layout.prefix, scaling, kv
        return result.index_select(0, plan.from_queries).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        plan, kv, dim = ctx.plan, ctx.kv, q.shape[-1]
        grad = grads[0].reshape(-1, dim).index_select(0, plan.to_queries).index_fill_(0, plan.padding, 0)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # The prefix collects from every row: in float32, so that bfloat16 does not lose what comes late.
        shared = torch.zeros(2, kv, ctx.prefix, dim, dtype=torch.float32, device=q.device)
        for b, weights in zip(plan.buckets, saved, strict=True):
            n = kv * b.rows
            own_q, own_k, own_v = (t[span].view(n, -1, dim) for t, span in ((q, b.queries), (k, b.keys), (v, b.keys)))
            g = grad[b.queries].view(n, -1, dim)
            d_weights = torch.bmm(g, own_v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, own_k, out=d_q[b.queries].view(n, -1, dim))
            torch.bmm(d_scores.transpose(1, 2), own_q, out=d_k[b.keys].view(n, -1, dim))
            torch.bmm(weights.transpose(1, 2), g, out=d_v[b.keys].view(n, -1, dim))
            if b.prefix:
                for total, part in zip(shared, (d_k, d_v), strict=True):
                    total += part[b.keys].view(kv, b.rows, -1, dim)[:, :, : b.prefix].sum(1, dtype=torch.float32)
        back_q = d_q.mul_(ctx.scaling).index_select(0, plan.from_queries).view(grads[0].shape)
        back_k, back_v = (t.index_select(0, plan.from_keys).view(-1, kv, dim) for t in (d_k, d_v))
        for back, total in zip((back_k, back_v), shared, strict=True):
            back[: ctx.prefix] += total.transpose(0, 1).to(back.dtype)
        return back_q, back_k, back_v, None, None


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in transformers' interface; without a layout it is the ordinary one (sdpa)."""
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    out = _PackedAttention.apply(*(t[0].transpose(0, 1) for t in (query, key, value)), shared_prefix, scale)
    return out.unsqueeze(0), None


def register() -> None:
    """Make the function known to transformers under :data:`NAME`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
