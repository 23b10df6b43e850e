"""Compares the kernels of training and merging with their definitions, on small tensors."""

from __future__ import annotations

import contextlib
import importlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KERNEL_SECONDS = 10.0
"""Time limit of a kernel's check, which takes a fraction of a second on small tensors."""


@dataclass(frozen=True)
class Kernel:
    """The result of a kernel's check. difference: the largest one, relative to the reference's largest value."""

    name: str
    right: bool
    difference: float | None
    limit: float
    seconds: float
    problem: str = ""


def check_kernels(device: torch.device, precision: torch.dtype) -> list[Kernel]:
    """Check the kernels on a device in its training precision; the merge always computes on the CPU."""
    import torch

    for library in ("bitsandbytes", "peft"):  # import time is not kernel time; the kernel's check reports failures
        with contextlib.suppress(Exception):
            importlib.import_module(library)
    return [
        checked("NF4 product", 0.02, lambda: _nf4(device, precision)),
        checked("packed attention", 0.02 if precision == torch.bfloat16 else 1e-4, lambda: _packed(device, precision)),
        checked("merge", 1e-6, _merge),
    ]


def checked(name: str, limit: float, compute: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> Kernel:
    """Compare the results of a kernel and of its definition. A kernel that fails, or takes too long, is not right."""
    began, difference, problem = time.monotonic(), None, ""
    try:
        actual, reference = (t.detach().double().cpu() for t in compute())
        difference = float((actual - reference).abs().max() / reference.abs().max())
    except Exception as error:  # noqa: BLE001 - any error is the kernel's fault
        problem = f"{type(error).__name__}: {error}"[:300]
    seconds = time.monotonic() - began
    if not problem and seconds > KERNEL_SECONDS:
        problem = f"it took longer than {KERNEL_SECONDS:g} s"
    is_right = not problem and difference is not None and difference <= limit  # NaN is not right
    return Kernel(name, is_right, difference, limit, round(seconds, 3), problem)


def _nf4(device: torch.device, precision: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the output of a 4-bit layer as in training, and the product with nearest levels times block maxima."""
    import bitsandbytes as bnb
    import torch

    from finetune_pipeline.models.loading import settle_four_bit_layers

    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(256, 512, generator=draw) * 0.05
    x = torch.randn(8, 512, generator=draw).to(precision)
    stored: dict[str, Any] = {"quant_type": "nf4", "compress_statistics": True}
    layer: Any = bnb.nn.Linear4bit(512, 256, bias=False, compute_dtype=precision, **stored)
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, **stored)
    layer = layer.to(device)
    settle_four_bit_layers(layer, precision)
    blocks = weight.view(-1, 64)
    largest = blocks.abs().amax(1, keepdim=True)
    levels = layer.weight.quant_state.code.cpu().float()
    nearest = ((blocks / largest)[..., None] - levels).abs().argmin(-1)
    return layer(x.to(device)), x.float() @ (levels[nearest] * largest).view_as(weight).T


def _packed(device: torch.device, precision: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return packed attention over two rows with one prefix, and torch's own attention over each full row in float32."""
    import torch

    from finetune_pipeline.training import attention
    from finetune_pipeline.training.prefix_tree import Layout

    prefix, tails, heads, size = 40, (30, 17), 4, 64
    draw = torch.Generator().manual_seed(2)
    total = prefix + sum(tails)
    q, k, v = (torch.randn(1, heads, total, size, generator=draw).to(precision) for _ in range(3))
    layout = Layout([prefix, *tails], [-1, 0, 0])
    packed, _ = attention.attend(
        torch.nn.Module(), q.to(device), k.to(device), v.to(device), None, shared_prefix=layout
    )
    parts: list[torch.Tensor] = []
    start = prefix
    for tail in tails:
        positions = torch.tensor([*range(prefix), *range(start, start + tail)])
        rows, keys, values = (t[0][:, positions].float() for t in (q, k, v))
        row = torch.nn.functional.scaled_dot_product_attention(rows, keys, values, is_causal=True)
        parts += [row.transpose(0, 1)[prefix:]] if parts else [row.transpose(0, 1)]
        start += tail
    return packed[0], torch.cat(parts)


def _merge() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights that the merge writes for an adapter saved by PEFT, and W + B A alpha / r in float64."""
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_pipeline.models.merging import merge

    torch.manual_seed(3)
    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1}
    model: Any = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    with tempfile.TemporaryDirectory(prefix="finetune-doctor-") as folder:
        base, adapter, out = (Path(folder) / name for name in ("base", "adapter", "out"))
        model.save_pretrained(base)
        weight = model.model.layers[0].mlp.up_proj.weight.detach().double()
        lora = LoraConfig(r=4, lora_alpha=8, target_modules=["up_proj"], task_type="CAUSAL_LM")
        tuned: Any = get_peft_model(model, lora)
        layer: Any = tuned.base_model.model.model.layers[0].mlp.up_proj
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        torch.nn.init.normal_(b, std=0.1)
        tuned.save_pretrained(str(adapter))
        merge(base, adapter, out)
        merged = load_file(out / "model" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
        return merged, weight + b.double() @ a.double() * 2
