"""Matrix products of a model that only predicts, on the CPU: by oneDNN instead of PyTorch's default, MKL, where it is faster.

Both compute in float32 and differ in the order of summing. MKL leaves the widest vector units (AVX-512) of processors of
other makers than Intel unused; there oneDNN was 2 times as fast on batches of tokens and 1.4 on single ones. On a processor
with AVX2 alone it took 1.1 times as long, on one of Intel's with AVX-512 1.02 to 1.07 times (benchmarks/evaluation_speed.py,
`same products`). PyTorch offers oneDNN to code that torch.compile makes, without a switch for modules: hence the operator of
such code is called here. What decides is what the processor can do, never a timing: the same machine gives the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from finetune_pipeline.models.hardware import cpu_maker


def onednn_is_there() -> bool:
    """Whether this build of PyTorch can compute float32 products by oneDNN."""
    return bool(torch.backends.mkldnn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_is_faster() -> bool:
    """Whether this processor has vector units that oneDNN uses and MKL does not."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and cpu_maker() != "GenuineIntel"


class OneDnnLinear(nn.Linear):
    """A linear layer without gradients. Where they are wanted, and for another dtype or device, it is nn.Linear's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype is not torch.float32 or input.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(input)
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(input, self.weight, self.bias, "none", [], "")
        return product


def predict_by_onednn(model: Any) -> None:
    """Let the linear layers of a model on the CPU use oneDNN; weights, names and everything else stay as they are."""
    for module in model.modules():
        if type(module) is nn.Linear:  # subclasses compute something else
            module.__class__ = OneDnnLinear
