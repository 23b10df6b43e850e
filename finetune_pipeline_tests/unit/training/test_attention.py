"""Packed attention against torch's own with the whole mask written out."""

from __future__ import annotations

import pytest
import torch

from finetune_pipeline.training.attention import Layout, _PackedAttention

CASES = [(5, [9, 8, 4, 1]), (0, [3, 2]), (4, [6]), (7, [10] * 9 + [9] * 9 + [2]), (1, [1, 1]), (3, [12, 2, 1])]


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, prefix: int, lengths: list[int]) -> torch.Tensor:
    segment = torch.tensor([0] * prefix + [i + 1 for i, n in enumerate(lengths) for _ in range(n)])
    i = torch.arange(len(segment))
    seen = (i[:, None] >= i[None]) & ((segment[None] == 0) | (segment[:, None] == segment[None]))
    group = q.shape[1] // k.shape[1]
    heads = [q.transpose(0, 1), *(t.transpose(0, 1).repeat_interleave(group, 0) for t in (k, v))]
    return torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(0, 1)


@pytest.mark.parametrize(("prefix", "lengths"), CASES)
@pytest.mark.parametrize("key_heads", [1, 2, 6])
def test_output_and_gradients(prefix: int, lengths: list[int], key_heads: int) -> None:
    torch.manual_seed(1)
    total, heads, dim = prefix + sum(lengths), 6, 8
    q = torch.randn(total, heads, dim, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(total, key_heads, dim, dtype=torch.float64, requires_grad=True) for _ in range(2))
    out = _PackedAttention.apply(q, k, v, Layout(prefix, lengths), dim**-0.5)
    expected = _reference(q, k, v, prefix, lengths)
    torch.testing.assert_close(out, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(out, (q, k, v), grad), torch.autograd.grad(expected, (q, k, v), grad), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=5e-6)  # the prefix's sums are in float32


def test_no_row_sees_another() -> None:
    torch.manual_seed(2)
    layout = Layout(4, [5, 3])
    q, k, v = (torch.randn(12, 2, 8) for _ in range(3))
    before = _PackedAttention.apply(q, k, v, layout, 1.0)
    k2, v2 = k.clone(), v.clone()
    k2[4:9] += 1  # the first row's keys and values
    v2[4:9] += 1
    after = _PackedAttention.apply(q, k2, v2, layout, 1.0)
    assert torch.equal(after[9:], before[9:]) and torch.equal(after[:4], before[:4])
    assert not torch.allclose(after[4:9], before[4:9])
