"""Kernels of the training step. The fused modules against PEFT's, transformers' and torch's own; FlexAttention over a
packed batch: the outputs of the attention by buckets, and a trial that lets nothing wrong through.

The backward pass of FlexAttention's compiled kernels exists on CUDA only; there the trial compares gradients first.
"""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch._higher_order_ops.flex_attention import flex_attention
from torch.nn.attention.flex_attention import _identity

from finetune_pipeline.training.attention import _PackedAttention
from finetune_pipeline.training.facts import Fused
from finetune_pipeline.training.flex import block_mask, flex_attend, try_kernels
from finetune_pipeline.training.fused import _Dropout, _masked, fuse, token_losses
from finetune_pipeline.training.packing import padded_batch
from finetune_pipeline.training.prefix_tree import BUCKETS, FLEX, Layout
from finetune_pipeline_tests.unit.training.models import adapted, loss_and_gradients, rows


@pytest.mark.parametrize(
    ("method", "compute", "near"),
    [("lora", torch.float32, 1e-5), ("qlora", torch.float32, 1e-5), ("qlora", torch.bfloat16, 0.05)],
)
def test_same_loss_and_gradients_as_peft(tiny: Path, method: str, compute: torch.dtype, near: float) -> None:
    batch = padded_batch(rows())
    plain = adapted(tiny, method, compute)
    loss, gradients = loss_and_gradients(plain, batch)
    model = adapted(tiny, method, compute)
    assert fuse(model) == Fused(lora_layers=14, norms=5)
    fused_loss, fused_gradients = loss_and_gradients(model, batch)
    assert fused_loss == pytest.approx(loss, rel=near)
    assert (fused_gradients - gradients).norm() / gradients.norm() < near
    assert gradients.norm() > 0


def test_gradients_with_dropout_are_those_of_the_drawn_mask(tiny: Path) -> None:
    model = adapted(tiny, dropout=0.3)
    fuse(model)
    model.train()
    batch = padded_batch(rows(2))
    weight = next(p for n, p in model.named_parameters() if "layers.0.mlp.down_proj.lora_A" in n)

    def loss() -> float:
        torch.manual_seed(7)
        return loss_and_gradients(model, batch)[0]

    loss()
    gradient, direction, losses = weight.grad.clone(), torch.randn_like(weight), []
    for step in (1e-3, -2e-3):
        weight.data.add_(direction, alpha=step)
        losses.append(loss())
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx((gradient * direction).sum().item(), rel=0.02)


@pytest.mark.parametrize(("probability", "dtype"), [(0.1, torch.float32), (0.001, torch.bfloat16)])
def test_dropout_rate_and_scale(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    dropout = _Dropout(probability)
    x = torch.ones(1000, 999, dtype=dtype)  # a size that is no multiple of a draw
    mean = _masked(x, dropout.mask(x)).float().mean().item()
    assert mean == pytest.approx(dropout.kept_share, abs=0.002)
    assert 1 - dropout.kept_share == pytest.approx(probability, rel=0.05)
    assert dropout.mask(x) is dropout.mask(x) and not torch.equal(dropout.mask(x.clone()), dropout.mask(x))


def test_a_norm_of_another_formula_is_left_alone(tiny: Path) -> None:
    model = adapted(tiny)
    inner = model.base_model.model.model
    inner.norm.variance_epsilon = 1.0  # still the formula, with this epsilon
    inner.layers[0].input_layernorm.forward = lambda x: x  # not the formula
    assert fuse(model).norms == 4


def test_token_losses_equal_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(9, 50) * 5).requires_grad_()
    targets, weights = torch.randint(0, 50, (9,)), torch.rand(9)
    ours, theirs = token_losses(logits, targets), torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad((losses * weights).sum(), logits) for losses in (ours, theirs)))


# --- FlexAttention

HEADS, KEY_HEADS, DIM = 4, 2, 16


def tree(seed: int) -> Layout:
    """A random tree of segments: those with children stand first."""
    draw = random.Random(seed)
    inner = draw.randint(1, 4)
    parents = [-1, *(draw.choice([-1, *range(i)]) for i in range(1, inner))]
    parents += [draw.choice([-1, *range(inner)]) for _ in range(draw.randint(2, 8))]
    return Layout([draw.randint(1, 40) for _ in parents], parents)


def numbers(layout: Layout, cached: int) -> list[torch.Tensor]:
    torch.manual_seed(0)
    tokens = sum(layout.lengths)
    key = (cached + tokens, KEY_HEADS, DIM)
    return [torch.randn(size) for size in ((tokens, HEADS, DIM), key, key)]


def buckets(layout: Layout, window: int | None = None) -> Callable[..., torch.Tensor]:
    return lambda query, key, value: _PackedAttention.apply(query, key, value, layout, DIM**-0.5, window)


@pytest.mark.parametrize(("cached", "window"), [(0, None), (5, None), (0, 7), (3, 11)])
def test_outputs_and_gradients_are_those_of_the_buckets(cached: int, window: int | None) -> None:
    """The operator behind FlexAttention has a backward pass on every device; only its compiled kernels have not."""
    for layout in map(tree, range(4)):
        tensors = numbers(layout, cached)
        expected = buckets(layout, window)(*tensors)
        got = flex_attend(*tensors, layout, DIM**-0.5, window, compiled=False)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    mask = block_mask(layout, cached, window, tensors[0].device).as_tuple()
    options = {"OUTPUT_LOGSUMEXP": True, "OUTPUT_MAX": False}

    def operator(*tensors: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in tensors)
        return flex_attention(q, k, v, _identity, mask, DIM**-0.5, options, (), ())[0][0].transpose(0, 1)

    weight = torch.randn(tensors[0].shape)

    def gradients(attend: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        inputs = [t.clone().requires_grad_() for t in tensors]
        return torch.autograd.grad((attend(*inputs) * weight).sum(), inputs)

    torch.testing.assert_close(gradients(operator), gradients(buckets(layout, window)), rtol=1e-4, atol=1e-5)


def test_the_trial_refuses_a_wrong_kernel_and_one_that_does_not_run() -> None:
    layout = tree(1)
    usual = buckets(layout)
    sizes = (HEADS, KEY_HEADS, DIM, sum(layout.lengths), 0, torch.float32, torch.device("cpu"))
    for name, kernel, why in (
        ("wrong", lambda q, k, v: usual(q, k, v) * 1.1, "other outputs or gradients"),
        ("no gradient", lambda q, k, v: usual(q, k.detach() + 0 * k, v), "gradients"),  # the outputs agree
        (FLEX, lambda q, k, v: flex_attend(q, k, v, layout, DIM**-0.5, None), "does not support backward on CPU"),
    ):
        trial = try_kernels({BUCKETS: usual, name: kernel}, *sizes)
        assert trial.kernel == BUCKETS and why in trial.why, trial
    equal_kernels = try_kernels({BUCKETS: usual, "same": usual}, *sizes)
    assert equal_kernels.difference == 0.0 and set(equal_kernels.seconds) == {BUCKETS, "same"}
