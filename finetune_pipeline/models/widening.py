"""Computes in float32 with weights that stay as stored: a block's weights are widened while it runs, and then dropped.

The logits are those of a model loaded in float32, in little more memory than the model as it is served needs: at most one
block, or the output head, is held in float32 at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


def compute_in_float32(model: nn.Module) -> None:
    """Make a model without gradients compute in float32 from now on. Apply it after adapters have been added."""
    for unit in _units(model):
        if type(unit) is nn.Embedding:  # a look-up is exact: only its result needs to be widened
            unit.register_forward_hook(lambda _module, _inputs, output: output.float())
        else:
            _widen_while_running(unit, merge=False)


@contextmanager
def merged_in_float32(model: nn.Module) -> Iterator[None]:
    """Make a model compute with its low-rank adapters merged by PEFT in float32, block by block, within the block. The weights
    themselves do not change."""
    handles = [handle for unit in _units(model) for handle in _widen_while_running(unit, merge=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """Hold a module's weights in float32 within the block."""
    stored = _widen(module, merge=False)
    try:
        yield
    finally:
        _restore(module, stored)


def low_rank_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield (name, layer) of each layer with a low-rank adapter of PEFT."""
    return ((name, module) for name, module in model.named_modules() if _is_adapted(module))


_Stored = list[tuple[nn.Module, str, nn.Parameter]]


def _is_adapted(module: nn.Module) -> bool:
    return hasattr(module, "base_layer") and hasattr(module, "merged_adapters")


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts to widen one at a time: the blocks, which may use their layers' weights directly, and other layers."""
    if module._parameters or _is_adapted(module):
        yield module
    elif isinstance(module, nn.ModuleList):
        yield from module
    else:
        for child in module.children():
            yield from _units(child)


def _widen_while_running(unit: nn.Module, *, merge: bool) -> list[Any]:
    stored: list[_Stored] = []

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        stored.append(_widen(module, merge))
        # some models convert the input of their head to its stored dtype
        return tuple(t.float() if isinstance(t, torch.Tensor) and t.is_floating_point() else t for t in inputs)

    def after(module: nn.Module, _inputs: Any, _output: Any) -> None:
        if stored:
            _restore(module, stored.pop())

    # before other hooks of this kind, which then have nothing to widen; weights are restored even if the pass fails
    return [unit.register_forward_pre_hook(before, prepend=True), unit.register_forward_hook(after, always_call=True)]


def _widen(module: nn.Module, merge: bool) -> _Stored:
    stored: _Stored = []
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is None or not parameter.is_floating_point():
                continue
            if parameter.dtype != torch.float32 or merge:
                stored.append((owner, name, parameter))
                wide = parameter.data.to(torch.float32, copy=True)
                owner._parameters[name] = nn.Parameter(wide, requires_grad=False)
    if merge:
        for _, layer in low_rank_layers(module):
            layer.merge()
    return stored


def _restore(module: nn.Module, stored: _Stored) -> None:
    for owner, name, parameter in stored:
        owner._parameters[name] = parameter
    for _, layer in low_rank_layers(module):
        layer.merged_adapters.clear()
