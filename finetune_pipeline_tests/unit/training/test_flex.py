"""FlexAttention over a packed batch: the outputs of the attention by buckets, and a trial that lets nothing wrong through.

The backward pass of its compiled kernels exists on CUDA only; there the trial compares gradients before it is used.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch._higher_order_ops.flex_attention import flex_attention
from torch.nn.attention.flex_attention import _identity

from finetune_pipeline.training.attention import _PackedAttention, choose_kernel
from finetune_pipeline.training.flex import block_mask, flex_attend, try_kernels
from finetune_pipeline.training.prefix_tree import BUCKETS, FLEX, Layout

HEADS, KEY_HEADS, DIM = 4, 2, 16


def tree(seed: int) -> Layout:
    """A random tree of segments: those with children stand first."""
    draw = random.Random(seed)
    inner = draw.randint(1, 4)
    parents = [-1, *(draw.choice([-1, *range(i)]) for i in range(1, inner))]
    parents += [draw.choice([-1, *range(inner)]) for _ in range(draw.randint(2, 8))]
    return Layout([draw.randint(1, 40) for _ in parents], parents)


def numbers(layout: Layout, cached: int, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    tokens = sum(layout.lengths)
    sizes = ((tokens, HEADS, DIM), (cached + tokens, KEY_HEADS, DIM), (cached + tokens, KEY_HEADS, DIM))
    return [torch.randn(size) for size in sizes]


@pytest.mark.parametrize(("cached", "window"), [(0, None), (5, None), (0, 7), (3, 11)])
def test_it_gives_what_the_buckets_give(cached: int, window: int | None) -> None:
    for layout in map(tree, range(6)):
        query, key, value = numbers(layout, cached)
        expected = _PackedAttention.apply(query, key, value, layout, DIM**-0.5, window)
        got = flex_attend(query, key, value, layout, DIM**-0.5, window, compiled=False)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("cached", "window"), [(0, None), (3, 11)])
def test_its_gradients_are_those_of_the_buckets(seed: int, cached: int, window: int | None) -> None:
    """The operator behind FlexAttention has a backward pass on every device; only its compiled kernels have not."""
    layout = tree(seed)
    query, key, value = numbers(layout, cached)
    mask = block_mask(layout, cached, window, query.device).as_tuple()
    options = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}

    def operator(*given: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in given)
        out: torch.Tensor = flex_attention(q, k, v, _identity, mask, DIM**-0.5, options, (), ())[0]
        return out[0].transpose(0, 1)

    def usual(*given: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = _PackedAttention.apply(*given, layout, DIM**-0.5, window)
        return out

    weight = torch.randn(query.shape)

    def gradients(attend: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = [t.clone().requires_grad_() for t in (query, key, value)]
        return torch.autograd.grad((attend(*inputs) * weight).sum(), inputs)

    for got, expected in zip(gradients(operator), gradients(usual), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_compiled_it_gives_the_same() -> None:
    layout = Layout([40, 9, 17, 5], [-1, 0, 0, 0])
    query, key, value = numbers(layout, 0)
    with torch.no_grad():
        got = flex_attend(query, key, value, layout, DIM**-0.5, None)
    expected = _PackedAttention.apply(query, key, value, layout, DIM**-0.5, None)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_the_trial_refuses_a_wrong_kernel_and_one_that_does_not_run() -> None:
    layout = tree(1)

    def usual(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _PackedAttention.apply(q, k, v, layout, DIM**-0.5, None)

    sizes = (HEADS, KEY_HEADS, DIM, sum(layout.lengths), 0, torch.float32, torch.device("cpu"))
    wrong = try_kernels({BUCKETS: usual, "wrong": lambda q, k, v: usual(q, k, v) * 1.1}, *sizes)
    assert wrong.kernel == BUCKETS and "other outputs or gradients" in wrong.why
    unseen = try_kernels({BUCKETS: usual, "no gradient": lambda q, k, v: usual(q, k.detach() + 0 * k, v)}, *sizes)
    assert unseen.kernel == BUCKETS and "gradients" in unseen.why, "the outputs agree, and the keys' gradient is lost"
    here = try_kernels({BUCKETS: usual, FLEX: lambda q, k, v: flex_attend(q, k, v, layout, DIM**-0.5, None)}, *sizes)
    assert here.kernel == BUCKETS and "does not support backward on CPU" in here.why
    same = try_kernels({BUCKETS: usual, "same": usual}, *sizes)
    assert same.difference == 0.0 and set(same.seconds) == {BUCKETS, "same"}


def test_outside_cuda_nothing_is_tried() -> None:
    trial = choose_kernel(None, 0, torch.float32, torch.device("cpu"))
    assert (trial.kernel, trial.seconds) == (BUCKETS, {})
