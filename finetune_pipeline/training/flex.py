"""Packed attention with FlexAttention, for CUDA: one kernel that stores no attention weights.

The tree of segments becomes a block mask by an Euler tour: segment a is an ancestor of b, or b itself, if and only if
enter[a] <= enter[b] < leave[a]. It is used only where a trial on the device gives the same outputs and gradients as
:mod:`.attention`, and gives them sooner.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from finetune_pipeline.training.prefix_tree import Layout, ancestors

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
_EVERYTHING = 2**31 - 1
_REPEATS = 5


@dataclass(frozen=True)
class Trial:
    """The result of a trial. seconds: of forward and backward by kernel. difference: the greatest relative one between them."""

    kernel: str
    why: str
    seconds: dict[str, float] = field(default_factory=dict)
    difference: float | None = None


def _tour(parents: list[int]) -> tuple[list[int], list[int]]:
    """(enter, leave) of every segment on a walk through the tree; the descendants of a segment are entered in between."""
    sizes = [1] * len(parents)  # of the subtrees; a parent stands before its children
    for child in reversed(range(len(parents))):
        if parents[child] >= 0:
            sizes[parents[child]] += sizes[child]
    enter, free = [], {-1: 0}
    for segment, parent in enumerate(parents):
        enter.append(free[parent])
        free[segment] = free[parent] + 1
        free[parent] += sizes[segment]
    return enter, [begin + size for begin, size in zip(enter, sizes, strict=True)]


def block_mask(layout: Layout, cached: int, window: int | None, device: torch.device) -> Any:
    """The layout as a block mask [T, cached + T]; kept with the layout. cached: keys before all tokens, seen by all. window: of
    sliding attention: a query sees keys less than so many places before it on its path; None: all."""
    from torch.nn.attention.flex_attention import create_block_mask

    key = ("flex", cached, window, device)
    if key not in layout.kept:
        enter, leave = _tour(layout.parents)
        lengths = torch.tensor(layout.lengths)
        before = [
            cached + sum(layout.lengths[a] for a in ancestors(layout.parents, i)) for i in range(len(layout.lengths))
        ]
        starts = torch.tensor(layout.starts())

        def of_tokens(values: list[int]) -> torch.Tensor:
            return torch.tensor(values).repeat_interleave(lengths)

        total = int(lengths.sum())
        place = of_tokens(before) + torch.arange(total) - starts.repeat_interleave(lengths)
        own = of_tokens(enter)
        first = torch.cat([torch.full((cached,), -1), own]).to(device)
        last = torch.cat([torch.full((cached,), _EVERYTHING), of_tokens(leave)]).to(device)
        at = torch.cat([torch.arange(cached), place]).to(device)
        own, place = own.to(device), place.to(device)

        def sees(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            on_path = (first[k] <= own[q]) & (own[q] < last[k]) & (at[k] <= place[q])
            return on_path if window is None else on_path & (place[q] - at[k] < window)

        compiled = {"_compile": True} if device.type == "cuda" else {}
        layout.kept[key] = create_block_mask(sees, None, None, total, cached + total, device=device.type, **compiled)
    return layout.kept[key]


@cache
def _kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


def flex_attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float,
    window: int | None,
    compiled: bool = True,
) -> torch.Tensor:
    """query [T, H, d], key and value [cached + T, K, d] with H a multiple of K; result [T, H, d]."""
    mask = block_mask(layout, key.shape[0] - query.shape[0], window, query.device)
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, value))
    out: torch.Tensor = _kernel(compiled)(q, k, v, block_mask=mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    return out[0].transpose(0, 1)


def try_kernels(
    kernels: dict[str, Attend],
    heads: int,
    key_heads: int,
    dim: int,
    tokens: int,
    cached: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Trial:
    """Compare two kernels on random numbers, forward and backward; the first is the one to fall back to.
    tokens, cached: of the layout the kernels were made for."""
    (usual, reference), (name, other) = kernels.items()
    draw = torch.Generator(device="cpu").manual_seed(0)
    sizes = ((tokens, heads, dim), (cached + tokens, key_heads, dim), (cached + tokens, key_heads, dim))
    inputs = [torch.randn(size, generator=draw).to(device, dtype) for size in sizes]
    weight = torch.randn(sizes[0], generator=draw).to(device, dtype)

    def run(attend: Attend) -> list[torch.Tensor]:
        given = [t.clone().requires_grad_() for t in inputs]
        out = attend(*given)
        (out * weight).sum().backward()
        return [out.detach(), *(t.grad for t in given if t.grad is not None)]

    try:
        expected, got = run(reference), run(other)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return Trial(usual, f"{name} cannot be used here: {type(error).__name__}: {str(error).splitlines()[0]}")
    pairs = zip(expected, got, strict=True)
    apart = max(((a - b).float().norm() / a.float().norm().clamp(min=1e-6)).item() for a, b in pairs)
    if not apart <= (1e-3 if dtype == torch.float32 else 0.03):
        why = f"{name} gave other outputs or gradients (relative difference {apart:.2g})"
        return Trial(usual, why, difference=apart)
    seconds = {}
    for title, attend in kernels.items():
        _wait(device)
        began = time.perf_counter()
        for _ in range(_REPEATS):
            run(attend)
        _wait(device)
        seconds[title] = (time.perf_counter() - began) / _REPEATS
    faster = min(seconds, key=lambda title: seconds[title])
    return Trial(faster, f"{faster} was the faster of two that agree on this device", seconds, apart)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
