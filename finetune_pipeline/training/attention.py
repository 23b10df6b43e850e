"""Attention over a packed batch: rows as a tree of segments, each token seeing its segment's ancestors and itself.

A dense mask over the packed sequence would cost the square of its length, most of it masked out. Here segments behind
equally long contexts and of similar length are taken in buckets, as one batched matrix product a bucket. Reordering into
buckets and back is one gather each, by indices made once a batch and used by every layer; the backward pass is written
out, since it needs nothing but the attention weights again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from finetune_pipeline.training.flex import Trial, flex_attend, try_kernels
from finetune_pipeline.training.prefix_tree import BUCKETS, FLEX, Layout, ancestors
from finetune_pipeline.training.prefix_tree import buckets as buckets_of

NAME = "shared_prefix"
_CHANGES_SCORES = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments with which some architectures modify attention scores; they are not supported here and must be refused."""


@dataclass(frozen=True)
class _Bucket:
    """Segments of similar length: `rows` padded to `length`, behind `context` keys; spans in the gathered tensors.
    shared [context] or [rows, context]: which of the layout's shared keys the context is (one for all rows, or each)."""

    rows: int
    length: int
    context: int
    queries: slice
    keys: slice
    mask: torch.Tensor  # [length, context + length], 0 or -inf
    shared: torch.Tensor


@dataclass(frozen=True)
class _Plan:
    """Gather indices for one number of heads. Queries are flattened as [T * heads, d], keys as [K * key heads, d].

    to_queries: [key head, row, head in group, position] of every bucket in turn; padding repeats a row's last token and
    is listed in `padding`. to_keys: [key head, row, context and position]. from_queries, from_keys: the way back (for
    keys: to a token's place as its own row's key, not as part of a context). shared: number of leading keys that lie in
    contexts.
    """

    buckets: list[_Bucket]
    to_queries: torch.Tensor
    from_queries: torch.Tensor
    padding: torch.Tensor
    to_keys: torch.Tensor
    from_keys: torch.Tensor
    shared: int


class PlanKey(NamedTuple):
    """What a plan depends on besides the layout. cached: virtual keys. window: of sliding attention; None: full attention."""

    heads: int
    key_heads: int
    cached: int
    window: int | None
    device: torch.device
    dtype: torch.dtype


def plan_of(layout: Layout, key: PlanKey) -> _Plan:
    """The gather plan of a layout; made once and kept with it."""
    if key not in layout.kept:
        layout.kept[key] = _make_plan(layout, key)
    plan: _Plan = layout.kept[key]
    return plan


def _make_plan(layout: Layout, key: PlanKey) -> _Plan:
    heads, key_heads, cached, window, device, dtype = key
    group = heads // key_heads
    starts = layout.starts()
    n_queries = n_keys = 0
    inner = set(layout.parents)
    shared = cached + sum(n for i, n in enumerate(layout.lengths) if i in inner)
    buckets, to_q, from_q, padding, to_k, from_k = [], [], [], [], [], []
    for members, context, length in buckets_of(layout.lengths, layout.parents, cached):
        rows = len(members)
        sizes = torch.tensor([layout.lengths[i] for i in members])[:, None]
        begin = torch.tensor([starts[i] for i in members])[:, None]
        column = torch.arange(length)[None, :]
        real = column < sizes
        token = begin + torch.minimum(column, sizes - 1)  # [rows, length]
        before = torch.stack([_context(layout, starts, i, cached) for i in members])  # [rows, context]
        head = torch.arange(heads).view(key_heads, 1, group, 1)
        queries = token[None, :, None, :] * heads + head  # [key_heads, rows, group, length]
        place = n_queries + torch.arange(queries.numel()).view(queries.shape)
        shown = real[None, :, None, :].expand(queries.shape)
        padding.append(place[~shown])
        from_q.append(torch.stack([queries[shown], place[shown]]))
        seen = torch.cat([before, token + cached], 1)
        kept = torch.arange(key_heads).view(-1, 1, 1)
        keys = seen[None] * key_heads + kept  # [key_heads, rows, context + length]
        place = n_keys + torch.arange(keys.numel()).view(keys.shape)
        own = torch.cat([torch.zeros(rows, context, dtype=torch.bool), real], 1).expand(keys.shape)
        from_k.append(torch.stack([keys[own] - cached * key_heads, place[own]]))
        one_for_all = bool((before == before[:1]).all())
        buckets.append(
            _Bucket(
                rows,
                length,
                context,
                slice(n_queries, n_queries + queries.numel()),
                slice(n_keys, n_keys + keys.numel()),
                _mask(length, context, window, dtype).to(device),
                (before[0] if one_for_all else before).to(device),
            )
        )
        to_q.append(queries.flatten())
        to_k.append(keys.flatten())
        n_queries += queries.numel()
        n_keys += keys.numel()

    def inverse(pairs: list[torch.Tensor]) -> torch.Tensor:
        joined = torch.cat(pairs, 1)
        back = torch.empty(joined.shape[1], dtype=torch.long)
        back[joined[0]] = joined[1]
        return back.to(device)

    return _Plan(
        buckets,
        torch.cat(to_q).to(device),
        inverse(from_q),
        torch.cat(padding).to(device),
        torch.cat(to_k).to(device),
        inverse(from_k),
        shared,
    )


def _context(layout: Layout, starts: Sequence[int], segment: int, cached: int) -> torch.Tensor:
    """Indices of the keys before a segment: the virtual ones, then its ancestors' tokens."""
    spans = [torch.arange(cached)]
    spans += [
        cached + torch.arange(starts[a], starts[a] + layout.lengths[a]) for a in ancestors(layout.parents, segment)
    ]
    return torch.cat(spans)


def _mask(length: int, context: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """[length, context + length]: 0 where a query sees a key (not later, and less than `window` before it), else -inf."""
    behind = (context + torch.arange(length))[:, None] - torch.arange(context + length)[None, :]
    hidden = behind < 0
    if window is not None:
        hidden |= behind >= window
    return torch.zeros(length, context + length, dtype=dtype).masked_fill_(hidden, float("-inf"))


class _PackedAttention(torch.autograd.Function):
    """query [T, H, d], key and value [virtual + T, K, d] with H a multiple of K; result [T, H, d]."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scaling: float,
        window: int | None,
    ) -> torch.Tensor:
        dim, kv, cached = query.shape[-1], key.shape[1], key.shape[0] - query.shape[0]
        plan = plan_of(layout, PlanKey(query.shape[1], kv, cached, window, query.device, query.dtype))
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
        ctx.plan, ctx.scaling, ctx.kv, ctx.cached = plan, scaling, kv, cached
        return result.index_select(0, plan.from_queries).view(query.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *saved = ctx.saved_tensors
        plan, kv, dim = ctx.plan, ctx.kv, q.shape[-1]
        grad = grads[0].reshape(-1, dim).index_select(0, plan.to_queries).index_fill_(0, plan.padding, 0)
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        # A context collects from every row behind it: in float32, so that bfloat16 does not lose what comes late.
        shared = torch.zeros(2, plan.shared, kv, dim, dtype=torch.float32, device=q.device)
        for b, weights in zip(plan.buckets, saved, strict=True):
            n = kv * b.rows
            own_q, own_k, own_v = (t[span].view(n, -1, dim) for t, span in ((q, b.queries), (k, b.keys), (v, b.keys)))
            g = grad[b.queries].view(n, -1, dim)
            d_weights = torch.bmm(g, own_v.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, own_k, out=d_q[b.queries].view(n, -1, dim))
            torch.bmm(d_scores.transpose(1, 2), own_q, out=d_k[b.keys].view(n, -1, dim))
            torch.bmm(weights.transpose(1, 2), g, out=d_v[b.keys].view(n, -1, dim))
            if b.context:
                for total, part in zip(shared, (d_k, d_v), strict=True):
                    _collect(total, part[b.keys].view(kv, b.rows, -1, dim)[:, :, : b.context], b.shared)
        back_q = d_q.mul_(ctx.scaling).index_select(0, plan.from_queries).view(grads[0].shape)
        back_k, back_v = (_keys_back(t, plan, ctx.cached, kv) for t in (d_k, d_v))
        for back, total in zip((back_k, back_v), shared, strict=True):
            back[: plan.shared] += total.to(back.dtype)
        return back_q, back_k, back_v, None, None, None


_packed_attention: Callable[..., torch.Tensor] = _PackedAttention.apply


def _collect(total: torch.Tensor, part: torch.Tensor, shared: torch.Tensor) -> None:
    """Add part [key heads, rows, context, d] to the shared keys [shared, key heads, d] that the rows' contexts are."""
    if shared.dim() == 1:
        total.index_add_(0, shared, part.sum(1, dtype=torch.float32).transpose(0, 1))
    else:
        total.index_add_(0, shared.flatten(), part.float().flatten(1, 2).transpose(0, 1))


def _keys_back(gathered: torch.Tensor, plan: _Plan, cached: int, kv: int) -> torch.Tensor:
    own = gathered.index_select(0, plan.from_keys).view(-1, kv, gathered.shape[-1])
    if not cached:
        return own
    return torch.cat([own.new_zeros(cached, *own.shape[1:]), own])


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
    """Attention function in transformers' interface; without a layout it is the ordinary one (sdpa).
    Raises ValueError if the architecture modifies its scores in an unsupported way."""
    if shared_prefix is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    unknown = [name for name in _CHANGES_SCORES if kwargs.get(name) is not None]
    if unknown:
        raise ValueError(f"attention with {', '.join(unknown)} is not computed on packed batches")
    window = kwargs.get("sliding_window")
    shared_prefix.windows.append(window)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (t[0].transpose(0, 1).to(value.dtype) for t in (query, key, value))  # autocast leaves them mixed
    with torch.autocast(query.device.type, enabled=False):
        if shared_prefix.kernel == FLEX:
            out = flex_attend(q, k, v, shared_prefix, scale, window)
        else:
            out = _packed_attention(q, k, v, shared_prefix, scale, window)
    return out.unsqueeze(0), None


def choose_kernel(config: Any, virtual: int, dtype: torch.dtype, device: torch.device) -> Trial:
    """Which kernel computes packed batches: on CUDA the one that a trial prefers, elsewhere the one here. config: of the text
    model; virtual: trained keys before all tokens."""
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
    """Make the function known to transformers under :data:`NAME`."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
