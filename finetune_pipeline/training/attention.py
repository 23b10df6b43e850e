"""Attention over a packed batch: rows as a tree of segments, each token seeing its segment's ancestors and itself.

A dense mask over the packed sequence would cost the square of its length, and most of it would be masked out. Instead,
segments of similar length with equally long contexts form a bucket, which takes one batched matrix product. One gather
reorders tokens into buckets, and one reverses it; every layer uses the same indices, computed once per batch. The backward
pass is written by hand, since it needs only the attention weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune_pipeline.models.inference.prefix_attention import refuse_changed_scores
from finetune_pipeline.training.flex import Trial, flex_attend, try_kernels
from finetune_pipeline.training.prefix_tree import BUCKETS, FLEX, Layout, ancestors
from finetune_pipeline.training.prefix_tree import buckets as buckets_of

NAME = "shared_prefix"


@dataclass(frozen=True)
class _Bucket:
    """Segments of similar length: `rows` padded to `length`, after `context` keys; queries, keys: spans in gathered tensors.
    shared [context] or [rows, context]: the context's indices in the layout's shared keys (of all rows, or per row)."""

    rows: int
    length: int
    context: int
    queries: slice
    keys: slice
    mask: Tensor  # [length, context + length], 0 or -inf
    shared: Tensor


@dataclass(frozen=True)
class _Plan:
    """Gather indices for one number of heads. Queries are flattened as [T * heads, d], keys as [K * key heads, d].

    to_queries: [key head, row, head in group, position] of every bucket in turn; padding repeats a row's last token, and
    `padding` lists it. to_keys: [key head, row, context and position]. from_queries, from_keys: the inverse (for keys: to
    a token's place as a key of its own row, not of a context). shared: number of leading keys that contexts contain.
    """

    buckets: list[_Bucket]
    to_queries: Tensor
    from_queries: Tensor
    padding: Tensor
    to_keys: Tensor
    from_keys: Tensor
    shared: int


class PlanKey(NamedTuple):
    """The inputs of a plan besides the layout. cached: virtual keys. window: of sliding attention; None: full attention."""

    heads: int
    key_heads: int
    cached: int
    window: int | None
    device: torch.device
    dtype: torch.dtype


def plan_of(layout: Layout, key: PlanKey) -> _Plan:
    """Return the gather plan of a layout, cached in it."""
    if key not in layout.cache:
        layout.cache[key] = _make_plan(layout, key)
    plan: _Plan = layout.cache[key]
    return plan


def _make_plan(layout: Layout, key: PlanKey) -> _Plan:
    heads, key_heads, cached, window, device, dtype = key
    group = heads // key_heads
    starts = layout.starts()
    queries_so_far = keys_so_far = 0
    parents = set(layout.parents)
    shared = cached + sum(length for i, length in enumerate(layout.lengths) if i in parents)
    buckets, to_queries, from_queries, padding, to_keys, from_keys = [], [], [], [], [], []
    for members, context, length in buckets_of(layout.lengths, layout.parents, cached):
        rows = len(members)
        sizes = torch.tensor([layout.lengths[i] for i in members])[:, None]
        begin = torch.tensor([starts[i] for i in members])[:, None]
        column = torch.arange(length)[None, :]
        is_token = column < sizes
        token = begin + torch.minimum(column, sizes - 1)  # [rows, length]
        contexts = torch.stack([_context(layout, starts, i, cached) for i in members])  # [rows, context]
        head = torch.arange(heads).view(key_heads, 1, group, 1)
        queries = token[None, :, None, :] * heads + head  # [key_heads, rows, group, length]
        place = queries_so_far + torch.arange(queries.numel()).view(queries.shape)
        real_queries = is_token[None, :, None, :].expand(queries.shape)
        padding.append(place[~real_queries])
        from_queries.append(torch.stack([queries[real_queries], place[real_queries]]))
        key_tokens = torch.cat([contexts, token + cached], 1)
        key_head = torch.arange(key_heads).view(-1, 1, 1)
        keys = key_tokens[None] * key_heads + key_head  # [key_heads, rows, context + length]
        place = keys_so_far + torch.arange(keys.numel()).view(keys.shape)
        real_keys = torch.cat([torch.zeros(rows, context, dtype=torch.bool), is_token], 1).expand(keys.shape)
        from_keys.append(torch.stack([keys[real_keys] - cached * key_heads, place[real_keys]]))
        shared_by_all = bool((contexts == contexts[:1]).all())
        buckets.append(
            _Bucket(
                rows,
                length,
                context,
                slice(queries_so_far, queries_so_far + queries.numel()),
                slice(keys_so_far, keys_so_far + keys.numel()),
                _mask(length, context, window, dtype).to(device),
                (contexts[0] if shared_by_all else contexts).to(device),
            )
        )
        to_queries.append(queries.flatten())
        to_keys.append(keys.flatten())
        queries_so_far += queries.numel()
        keys_so_far += keys.numel()

    def inverse(pairs: list[Tensor]) -> Tensor:
        """Return the gathered place of every source index, from pairs [2, n] of (source indices, their places)."""
        sources, places = torch.cat(pairs, 1)
        place_of_source = torch.empty(len(sources), dtype=torch.long)
        place_of_source[sources] = places
        return place_of_source.to(device)

    return _Plan(
        buckets,
        torch.cat(to_queries).to(device),
        inverse(from_queries),
        torch.cat(padding).to(device),
        torch.cat(to_keys).to(device),
        inverse(from_keys),
        shared,
    )


def _context(layout: Layout, starts: Sequence[int], segment: int, cached: int) -> Tensor:
    """Return the indices of the keys before a segment: the virtual ones, then its ancestors' tokens."""
    spans = [torch.arange(cached)]
    spans += [
        cached + torch.arange(starts[ancestor], starts[ancestor] + layout.lengths[ancestor])
        for ancestor in ancestors(layout.parents, segment)
    ]
    return torch.cat(spans)


def _mask(length: int, context: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Return the mask [length, context + length]: 0 where a query sees a key (itself or less than `window` before), else -inf."""
    distance = (context + torch.arange(length))[:, None] - torch.arange(context + length)[None, :]
    hidden = distance < 0
    if window is not None:
        hidden |= distance >= window
    return torch.zeros(length, context + length, dtype=dtype).masked_fill_(hidden, float("-inf"))


class _PackedAttention(torch.autograd.Function):
    """query [T, H, d], key and value [virtual + T, K, d] with H a multiple of K; result [T, H, d]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None
    ) -> Tensor:
        dim, key_heads, cached = query.shape[-1], key.shape[1], key.shape[0] - query.shape[0]
        plan = plan_of(layout, PlanKey(query.shape[1], key_heads, cached, window, query.device, query.dtype))
        q = query.reshape(-1, dim).index_select(0, plan.to_queries).mul_(scaling)
        k = key.reshape(-1, dim).index_select(0, plan.to_keys)
        v = value.reshape(-1, dim).index_select(0, plan.to_keys)
        result = torch.empty_like(q)
        saved = []
        for bucket in plan.buckets:
            n = key_heads * bucket.rows
            scores = torch.bmm(q[bucket.queries].view(n, -1, dim), k[bucket.keys].view(n, -1, dim).transpose(1, 2))
            scores.view(n, -1, *bucket.mask.shape).add_(bucket.mask)
            weights = torch.softmax(scores, -1)
            torch.bmm(weights, v[bucket.keys].view(n, -1, dim), out=result[bucket.queries].view(n, -1, dim))
            saved.append(weights)
        ctx.save_for_backward(q, k, v, *saved)
        ctx.plan, ctx.scaling, ctx.key_heads, ctx.cached = plan, scaling, key_heads, cached
        return result.index_select(0, plan.from_queries).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        plan, key_heads, dim = ctx.plan, ctx.key_heads, q.shape[-1]
        grad = grads[0].reshape(-1, dim).index_select(0, plan.to_queries).index_fill_(0, plan.padding, 0)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # A context sums the gradients of all rows that use it: in float32, since bfloat16 would lose the last summands.
        shared = torch.zeros(2, plan.shared, key_heads, dim, dtype=torch.float32, device=q.device)
        for bucket, weights in zip(plan.buckets, saved, strict=True):
            n = key_heads * bucket.rows
            own_q = q[bucket.queries].view(n, -1, dim)
            own_k, own_v = (t[bucket.keys].view(n, -1, dim) for t in (k, v))
            own_grad = grad[bucket.queries].view(n, -1, dim)
            d_weights = torch.bmm(own_grad, own_v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, own_k, out=d_q[bucket.queries].view(n, -1, dim))
            torch.bmm(d_scores.transpose(1, 2), own_q, out=d_k[bucket.keys].view(n, -1, dim))
            torch.bmm(weights.transpose(1, 2), own_grad, out=d_v[bucket.keys].view(n, -1, dim))
            if bucket.context:
                for total, part in zip(shared, (d_k, d_v), strict=True):
                    keys_by_row = part[bucket.keys].view(key_heads, bucket.rows, -1, dim)
                    _add_context_gradients(total, keys_by_row[:, :, : bucket.context], bucket.shared)
        query_grad = d_q.mul_(ctx.scaling).index_select(0, plan.from_queries).view(grads[0].shape)
        key_grad, value_grad = (_token_gradients(t, plan, ctx.cached, key_heads) for t in (d_k, d_v))
        for token_grad, total in zip((key_grad, value_grad), shared, strict=True):
            token_grad[: plan.shared] += total.to(token_grad.dtype)
        return query_grad, key_grad, value_grad, None, None, None


_packed_attention: Callable[..., Tensor] = _PackedAttention.apply


def _add_context_gradients(total: Tensor, part: Tensor, shared: Tensor) -> None:
    """Add context gradients, part [key heads, rows, context, d], to those of shared keys, total [shared, key heads, d]."""
    if shared.dim() == 1:
        total.index_add_(0, shared, part.sum(1, dtype=torch.float32).transpose(0, 1))
    else:
        total.index_add_(0, shared.flatten(), part.float().flatten(1, 2).transpose(0, 1))


def _token_gradients(gathered: Tensor, plan: _Plan, cached: int, key_heads: int) -> Tensor:
    """Return the gradients [virtual + T, key heads, d] of each token's own key or value, without its use in contexts."""
    gradients = gathered.index_select(0, plan.from_keys).view(-1, key_heads, gathered.shape[-1])
    if not cached:
        return gradients
    return torch.cat([gradients.new_zeros(cached, *gradients.shape[1:]), gradients])


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared_prefix: Layout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function in transformers' interface; without a layout it is the ordinary one (sdpa).
    Raises ValueError if the architecture modifies its scores in an unsupported way."""
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    refuse_changed_scores(kwargs, "on packed batches")
    window = kwargs.get("sliding_window")
    shared_prefix.windows.append(window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (t[0].transpose(0, 1).to(value.dtype) for t in (query, key, value))  # autocast leaves them mixed
    with torch.autocast(query.device.type, enabled=False):
        if shared_prefix.kernel == FLEX:
            output = flex_attend(q, k, v, shared_prefix, scale, window)
        else:
            output = _packed_attention(q, k, v, shared_prefix, scale, window)
    return output.unsqueeze(0), None


def choose_kernel(config: Any, virtual: int, dtype: torch.dtype, device: torch.device) -> Trial:
    """Choose the kernel of packed batches: on CUDA by a trial, elsewhere the one of this module. config: of the text model;
    virtual: trained keys before all tokens."""
    if device.type != "cuda":
        return Trial(BUCKETS, "FlexAttention has no backward pass outside CUDA")
    heads = config.num_attention_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    layout = Layout([512] + [96] * 16, [-1] + [0] * 16, virtual)
    kernels: dict[str, Any] = {
        BUCKETS: lambda q, k, v: _packed_attention(q, k, v, layout, dim**-0.5, None),
        FLEX: lambda q, k, v: flex_attend(q, k, v, layout, dim**-0.5, None),
    }
    keys = getattr(config, "num_key_value_heads", None) or heads
    return try_kernels(kernels, heads, keys, dim, sum(layout.lengths), virtual, dtype, device)


def register() -> None:
    """Register the attention function with transformers under :data:`NAME`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
