"""The fused modules against PEFT's, transformers' and torch's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune_pipeline.training.fused import _Dropout, _masked, fuse, token_losses
from finetune_pipeline.training.shared_prefix import PaddedCollator
from finetune_pipeline_tests.unit.training.models import adapted
from finetune_pipeline_tests.unit.training.rows import loss_and_gradients, rows


@pytest.mark.parametrize(
    ("method", "compute", "near"),
    [("lora", torch.float32, 1e-5), ("qlora", torch.float32, 1e-5), ("qlora", torch.bfloat16, 0.05)],
)
def test_same_loss_and_gradients_as_peft(tiny: Path, method: str, compute: torch.dtype, near: float) -> None:
    batch = PaddedCollator(2)(rows())
    plain = adapted(tiny, method, compute)
    loss, gradients = loss_and_gradients(plain, batch)
    model = adapted(tiny, method, compute)
    assert fuse(model) == {"lora_layers": 14, "norms": 5}
    fused_loss, fused_gradients = loss_and_gradients(model, batch)
    assert fused_loss == pytest.approx(loss, rel=near)
    assert (fused_gradients - gradients).norm() / gradients.norm() < near
    assert gradients.norm() > 0


def test_gradients_with_dropout_are_those_of_the_drawn_mask(tiny: Path) -> None:
    model = adapted(tiny, dropout=0.3)
    fuse(model)
    model.train()
    batch = PaddedCollator(2)(rows(2))
    name, weight = next((n, p) for n, p in model.named_parameters() if "layers.0.mlp.down_proj.lora_A" in n)
    torch.manual_seed(7)
    _, _ = loss_and_gradients(model, batch)
    gradient = weight.grad.clone()
    direction = torch.randn_like(weight)
    losses = []
    for step in (1e-3, -1e-3):
        with torch.no_grad():
            weight.add_(direction, alpha=step)
        torch.manual_seed(7)
        losses.append(loss_and_gradients(model, batch)[0])
        with torch.no_grad():
            weight.sub_(direction, alpha=step)
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx((gradient * direction).sum().item(), rel=0.02), name


@pytest.mark.parametrize(("probability", "dtype"), [(0.1, torch.float32), (0.001, torch.bfloat16)])
def test_dropout_rate_and_scale(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    dropout = _Dropout(probability)
    x = torch.ones(1000, 999, dtype=dtype)  # a size that is no multiple of a draw
    kept = _masked(x, dropout.mask(x)).float().mean().item()
    assert kept == pytest.approx(dropout.kept_share, abs=0.002)
    assert 1 - dropout.kept_share == pytest.approx(probability, rel=0.05)
    assert dropout.mask(x) is dropout.mask(x)
    other = x.clone()
    assert not torch.equal(dropout.mask(other), dropout.mask(x))


def test_a_layer_of_another_kind_is_left_alone(tiny: Path) -> None:
    dora = adapted(tiny, use_dora=True)
    assert fuse(dora)["lora_layers"] == 0
    other = adapted(tiny)
    norm = other.base_model.model.model.norm
    norm.variance_epsilon = 1.0  # still the formula, with this epsilon
    other.base_model.model.model.layers[0].input_layernorm.forward = lambda x: x  # not the formula
    assert fuse(other)["norms"] == 4


def test_token_losses_equal_cross_entropy() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(9, 50) * 5).requires_grad_()
    targets = torch.randint(0, 50, (9,))
    weights = torch.rand(9)
    ours, theirs = token_losses(logits, targets), torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), logits), torch.autograd.grad((theirs * weights).sum(), logits)
    )
