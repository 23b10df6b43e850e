"""Packed attention with FlexAttention, for CUDA: one kernel that stores no attention weights.

The tree of segments becomes a block mask by an Euler tour: segment a is an ancestor of b, or b itself, if and only if
enter[a] <= enter[b] < leave[a]. Training uses this kernel only if, in a trial on the device, it gives the same outputs and
gradients as :mod:`.attention` in less time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from finetune_pipeline.models.inference.trial import relative_difference
from finetune_pipeline.training.prefix_tree import Layout, ancestors

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
_INFINITY = 2**31 - 1
_REPEATS = 5


@dataclass(frozen=True)
class Trial:
    """The result of a trial. seconds: of forward and backward, by kernel. difference: the largest relative one between kernels."""

    kernel: str
    why: str
    seconds: dict[str, float] = field(default_factory=dict)
    difference: float | None = None


def _tour(parents: list[int]) -> tuple[list[int], list[int]]:
    """Return (enter, leave) of every segment on an Euler tour; its descendants are entered in between."""
    sizes = [1] * len(parents)  # of the subtrees; a parent comes before its children
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
    """Return the layout's block mask [T, cached + T], cached in the layout. cached: number of keys before all tokens, which
    all queries see. window: of sliding attention, counted along a query's path; None: full attention."""
    from torch.nn.attention.flex_attention import create_block_mask

    key = ("flex", cached, window, device)
    if key not in layout.cache:
        enter, leave = _tour(layout.parents)
        lengths = torch.tensor(layout.lengths)
        context_lengths = [
            cached + sum(layout.lengths[a] for a in ancestors(layout.parents, i)) for i in range(len(layout.lengths))
        ]
        starts = torch.tensor(layout.starts())

        def per_token(values: list[int]) -> Tensor:
            return torch.tensor(values).repeat_interleave(lengths)

        total = int(lengths.sum())
        query_positions = per_token(context_lengths) + torch.arange(total) - starts.repeat_interleave(lengths)
        segment_entries = per_token(enter)
        first_entry = torch.cat([torch.full((cached,), -1), segment_entries]).to(device)
        last_entry = torch.cat([torch.full((cached,), _INFINITY), per_token(leave)]).to(device)
        key_positions = torch.cat([torch.arange(cached), query_positions]).to(device)
        segment_entries, query_positions = segment_entries.to(device), query_positions.to(device)

        def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            on_path = (
                (first_entry[k] <= segment_entries[q])
                & (segment_entries[q] < last_entry[k])
                & (key_positions[k] <= query_positions[q])
            )
            return on_path if window is None else on_path & (query_positions[q] - key_positions[k] < window)

        compiled = {"_compile": True} if device.type == "cuda" else {}
        layout.cache[key] = create_block_mask(sees, None, None, total, cached + total, device=device.type, **compiled)
    return layout.cache[key]


@cache
def _kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if compiled else flex_attention


def flex_attend(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, scaling: float, window: int | None, compiled: bool = True
) -> Tensor:
    """Return the attention [T, H, d] for query [T, H, d], key and value [cached + T, K, d]; H is a multiple of K."""
    mask = block_mask(layout, key.shape[0] - query.shape[0], window, query.device)
    q, k, v = (t.transpose(0, 1).unsqueeze(0) for t in (query, key, value))
    output: Tensor = _kernel(compiled)(q, k, v, block_mask=mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1])
    return output[0].transpose(0, 1)


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
    """Compare two kernels on random numbers, forward and backward; the first is the fallback.
    tokens, cached: of the kernels' layout."""
    (fallback, reference), (name, candidate) = kernels.items()
    generator = torch.Generator(device="cpu").manual_seed(0)
    sizes = ((tokens, heads, dim), (cached + tokens, key_heads, dim), (cached + tokens, key_heads, dim))
    inputs = [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]
    weight = torch.randn(sizes[0], generator=generator).to(device, dtype)

    def run(attend: Attend) -> list[Tensor]:
        arguments = [t.clone().requires_grad_() for t in inputs]
        output = attend(*arguments)
        (output * weight).sum().backward()
        return [output.detach(), *(t.grad for t in arguments if t.grad is not None)]

    try:
        expected, actual = run(reference), run(candidate)
    except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
        return Trial(fallback, f"{name} cannot be used here: {type(error).__name__}: {str(error).splitlines()[0]}")
    difference = max(relative_difference(a, b) for a, b in zip(actual, expected, strict=True))
    if not difference <= (1e-3 if dtype == torch.float32 else 0.03):
        reason = f"{name} gave other outputs or gradients (relative difference {difference:.2g})"
        return Trial(fallback, reason, difference=difference)
    seconds = {}
    for title, attend in kernels.items():
        _wait(device)
        began = time.perf_counter()
        for _ in range(_REPEATS):
            run(attend)
        _wait(device)
        seconds[title] = (time.perf_counter() - began) / _REPEATS
    faster = min(seconds, key=lambda title: seconds[title])
    return Trial(faster, f"{faster} was the faster of two that agree on this device", seconds, difference)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
