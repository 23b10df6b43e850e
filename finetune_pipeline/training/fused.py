"""Fused LoRA and RMSNorm: the arithmetic of PEFT's and transformers' modules in fewer passes over memory.

Weights stay in bitsandbytes' 4-bit storage and in PEFT's adapters; only the ``forward`` of supported modules is replaced.
The gain (2 cores, 135M parameters): PEFT casts and adds through six full-size intermediates per layer, torch draws dropout
one value at a time, and the model's RMSNorm multiplies tensors of two dtypes, which has no vectorised path.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor

from finetune_pipeline.training.facts import Fused


class _LoraProduct(torch.autograd.Function):
    """y = x W' + (dropout(x) A') B' * scaling, with W from `layer` (if in 4 bits, dequantized in both passes)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lora_a: Tensor, lora_b: Tensor, layer: Any, keep: Any, scaling: float, kept_share: float
    ) -> Tensor:
        a = (lora_a / kept_share).to(x.dtype)
        b = (lora_b * scaling).to(x.dtype)
        low = (x if keep is None else _masked(x, keep)) @ a.t()
        y = x @ _weight(layer, x.dtype).t()
        y.addmm_(low, b.t())
        if layer.bias is not None:
            y += layer.bias.to(x.dtype)
        ctx.save_for_backward(x, low, a, b, keep)
        ctx.layer, ctx.scaling, ctx.kept_share = layer, scaling, kept_share
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        x, low, a, b, keep = ctx.saved_tensors
        d_low = grad @ b
        d_b = (grad.t() @ low).float().mul_(ctx.scaling)
        d_a = (d_low.t() @ (x if keep is None else _masked(x, keep))).float().div_(ctx.kept_share)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = grad @ _weight(ctx.layer, grad.dtype)
            if keep is None:
                d_x.addmm_(d_low, a)
            else:
                d_x += _masked(d_low @ a, keep)
        return d_x, d_a, d_b, None, None, None, None


def _masked(x: Tensor, keep: Tensor) -> Tensor:
    """Return x where `keep` is 1, and zero where it is 0, by multiplying integers of x's width: ten times as fast as
    torch.where."""
    return (x.view(keep.dtype) * keep).view(x.dtype)


def _weight(layer: Any, dtype: torch.dtype) -> Tensor:
    """Return the layer's weight [out, in] in `dtype`."""
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        weight: Tensor = layer.weight.to(dtype)
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight, state).to(dtype)


class _Dropout:
    """Draws keep-masks (1 keep, 0 drop), 8 bits per value, from torch's generator, whose state checkpoints restore.

    The drop probability is rounded to 1/256, or to 1/65536 if that would change it by more than 5%; `kept_share` is the
    exact share after rounding. Layers with the same input in one pass (query, key and value) share its mask.
    """

    def __init__(self, probability: float) -> None:
        coarse = round(probability * 256) / 256
        bits = 8 if abs(coarse - probability) <= 0.05 * probability else 16
        self.draw_dtype = torch.int8 if bits == 8 else torch.int16
        self.drop = round(probability * (1 << bits))  # of the 2**bits values a draw can have
        self.kept_share = 1 - self.drop / (1 << bits)
        self.threshold = self.drop - (1 << (bits - 1))
        self.last: tuple[Tensor, Tensor] | None = None

    def mask(self, x: Tensor) -> Tensor:
        """Return a keep-mask of x's shape, in integers of x's width; the last one if x is the same tensor as last time."""
        if self.last is not None and self.last[0] is x:
            return self.last[1]
        values_per_draw = 8 // self.draw_dtype.itemsize
        count = math.ceil(x.numel() / values_per_draw)
        draws = torch.empty(count, dtype=torch.int64, device=x.device).random_(-(1 << 63), None)
        mask_dtype = torch.int16 if x.element_size() == 2 else torch.int32
        keep = torch.empty(x.shape, dtype=mask_dtype, device=x.device)
        torch.ge(draws.view(self.draw_dtype)[: x.numel()].view(x.shape), self.threshold, out=keep)
        self.last = (x, keep)
        return keep


_lora_product: Callable[..., Tensor] = _LoraProduct.apply


def _fuse_lora(module: Any, adapter: str, dropout: _Dropout) -> None:
    """Replace a LoRA layer's forward."""
    layer, scaling = module.get_base_layer(), module.scaling[adapter]

    def forward(x: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        drop = module.training and dropout.drop > 0
        keep = dropout.mask(x).view(flat.shape) if drop else None
        share = dropout.kept_share if drop else 1.0
        a, b = module.lora_A[adapter].weight, module.lora_B[adapter].weight  # looked up: loading may replace them
        return _lora_product(flat, a, b, layer, keep, scaling, share).view(*x.shape[:-1], -1)

    module.forward = forward


class _RmsNorm(torch.autograd.Function):
    """y = weight * x / rms(x), for a frozen weight; statistics in float32 (Zhang and Sennrich 2019)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        unit = (wide * scale).to(x.dtype)
        ctx.save_for_backward(unit, weight, scale)
        normed: Tensor = unit * weight.to(x.dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unit, weight, scale = ctx.saved_tensors
        grad = (grads[0] * weight.to(grads[0].dtype)).float()
        wide = unit.float()
        mean = (grad * wide).mean(-1, keepdim=True)
        return (grad - wide.mul_(mean)).mul_(scale).to(grads[0].dtype), None, None


_rms_norm: Callable[..., Tensor] = _RmsNorm.apply


def _fuse_norm(module: Any) -> bool:
    """Replace an RMSNorm's forward, if both give the same results in a trial."""
    weight = getattr(module, "weight", None)
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if weight is None or not isinstance(eps, float) or weight.dim() != 1 or weight.requires_grad:
        return False
    trial = torch.linspace(-3, 3, 4 * weight.numel(), device=weight.device).view(4, -1)
    with torch.no_grad():
        equal = torch.allclose(module(trial).float(), _rms_norm(trial, weight, eps).float(), rtol=1e-5, atol=1e-5)
    if equal:
        module.forward = lambda x: _rms_norm(x, weight, eps)
    return equal


def fuse(model: Any) -> Fused:
    """Replace the forwards of a PEFT model's plain LoRA layers and frozen RMSNorms. Returns how many of each.
    Does not change LoRA variants, layers with several adapters, and norms of another formula."""
    kinds: tuple[type, ...] = (LoraLinear,)
    try:
        from peft.tuners.lora.bnb import Linear4bit

        kinds = (LoraLinear, Linear4bit)
    except ImportError:  # bitsandbytes is not installed: there are no 4-bit layers then
        pass
    adapter, lora_layers, norms = "default", 0, 0
    dropouts: dict[float, _Dropout] = {}
    for module in model.modules():
        if type(module) in kinds and list(module.lora_A) == [adapter] and adapter not in module.lora_variant:
            if getattr(module, "fan_in_fan_out", False) or module.lora_bias.get(adapter):
                continue
            probability = float(getattr(module.lora_dropout[adapter], "p", 0.0))
            _fuse_lora(module, adapter, dropouts.setdefault(probability, _Dropout(probability)))
            lora_layers += 1
        elif type(module).__name__.endswith("RMSNorm") and _fuse_norm(module):
            norms += 1
    return Fused(lora_layers=lora_layers, norms=norms)


class _TokenLoss(torch.autograd.Function):
    """Cross-entropy of each token, without the full-size log-probabilities that torch's implementation stores."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        wide = logits.float()
        norm = torch.logsumexp(wide, -1)
        ctx.save_for_backward(logits, targets, norm)
        return norm - wide.gather(1, targets[:, None]).squeeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, norm = ctx.saved_tensors
        grad = logits.float().sub_(norm[:, None]).exp_()
        grad.scatter_add_(1, targets[:, None], grad.new_full((len(targets), 1), -1.0))
        return grad.mul_(grads[0][:, None]).to(logits.dtype), None


def token_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each token in nats, [n], from logits [n, vocabulary] and targets [n], computed in float32."""
    losses: Tensor = _TokenLoss.apply(logits, targets)  # type: ignore[no-untyped-call]
    return losses
