"""Packed attention against torch's own with the whole mask written out."""

from __future__ import annotations

import pytest
import torch

from finetune_pipeline.training.attention import _PackedAttention, attend
from finetune_pipeline.training.prefix_tree import Layout


def one_prefix(prefix: int, lengths: list[int], virtual: int = 0) -> Layout:
    """`prefix` tokens (maybe 0), then suffixes of `lengths` tokens."""
    if not prefix:
        return Layout(lengths, [-1] * len(lengths), virtual)
    return Layout([prefix, *lengths], [-1, *[0] * len(lengths)], virtual)


CASES = [
    one_prefix(5, [9, 8, 4, 1]),
    one_prefix(0, [3, 2]),
    one_prefix(4, [6]),
    one_prefix(7, [10] * 9 + [9] * 9 + [2]),
    one_prefix(1, [1, 1]),
    one_prefix(3, [12, 2, 1], virtual=4),
    # two prompts (the second with a document behind it), each with rows of its own, and a row without any
    Layout([6, 4, 5, 3, 7, 2, 9, 4], [-1, -1, 1, 0, 0, 1, 2, -1]),
    Layout([4, 3, 5, 2, 6, 6], [-1, 0, -1, 1, 1, 2], virtual=3),
    # two prompts of the same length: their rows share buckets, each behind a context of its own
    Layout([4, 4, 5, 5, 4], [-1, -1, 0, 1, 1]),
]


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: Layout, window: int | None) -> torch.Tensor:
    """torch's own attention, one row of the batch after the other, each with its ancestors before it."""
    cached = len(k) - len(q)
    group = q.shape[1] // k.shape[1]
    out = torch.zeros_like(q)
    starts = layout.starts()
    for segment, length in enumerate(layout.lengths):
        places = [
            p for a in [*layout.ancestors(segment), segment] for p in range(starts[a], starts[a] + layout.lengths[a])
        ]
        own = torch.tensor(places)
        keys = torch.cat([torch.arange(cached), own + cached])
        behind = (cached + torch.arange(len(own)))[:, None] - torch.arange(len(keys))[None]
        seen = (behind >= 0) & (behind < (window or 10**9))
        heads = [q[own].transpose(0, 1), *(t[keys].transpose(0, 1).repeat_interleave(group, 0) for t in (k, v))]
        whole = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(0, 1)
        out = out.index_copy(0, own[-length:], whole[-length:])
    return out


@pytest.mark.parametrize("layout", CASES, ids=range(len(CASES)))
@pytest.mark.parametrize(("key_heads", "window"), [(2, None), (6, 6), (1, 1)])
def test_output_and_gradients(layout: Layout, key_heads: int, window: int | None) -> None:
    torch.manual_seed(1)
    total, heads, dim = sum(layout.lengths), 6, 8
    q = torch.randn(total, heads, dim, dtype=torch.float64, requires_grad=True)
    shape = (layout.virtual + total, key_heads, dim)
    k, v = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out = _PackedAttention.apply(q, k, v, layout, dim**-0.5, window)
    expected = _reference(q, k, v, layout, window)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)  # what contexts collect is in float32


def test_segments_out_of_order_are_refused() -> None:
    for parents in ([-1, -1, 1], [1, -1], [0]):
        with pytest.raises(ValueError, match="must stand before"):
            Layout([2] * len(parents), parents)


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_scores_bent_by_something_else_are_refused(name: str) -> None:
    q = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match=name):
        attend(torch.nn.Module(), q, q, q, None, shared_prefix=one_prefix(0, [3]), **{name: 30.0})
