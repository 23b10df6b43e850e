"""W + scaling * B A, a block of rows at a time, in float32; with DoRA's magnitudes where the adapter has them.

One rounding at the end: the sum is made in float32 and stored in the base's type. PEFT's ``merge_and_unload`` on float32
adapter weights does the same, and the results are the same bits. Where PEFT holds the adapter itself in bfloat16 it rounds
the product once more before it adds; this merge does not, and may then differ from it in the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from finetune_pipeline.models.adapters import Adapter, Change, LowRank
from finetune_pipeline.models.streaming import TORCH_TYPES, TensorFile

Delta = Callable[[int, int], torch.Tensor]


def changed_rows(
    adapter: Adapter, change: Change, weight: str, dtype: str
) -> Callable[[TensorFile], Iterator[torch.Tensor]]:
    """How the base's tensor `weight` is written once `change` is made to it, stored as `dtype` (safetensors' name).

    Returns a function from the open file that holds the weight to its new rows, in order, some 2 Mi elements at a time.
    """

    def make(base: TensorFile) -> Iterator[torch.Tensor]:
        kind = TORCH_TYPES[dtype]
        with adapter.file as own:
            old = own if change.replacement else base
            name = change.replacement or weight
            if change.added is not None:
                key, scaling = change.added
                yield (old.tensor(name).float() + scaling * own.tensor(key).float()).to(kind)
                return
            if change.low_rank is None:
                for start, stop in old.blocks(name):
                    yield old.rows(name, start, stop).to(kind)
                return
            delta = _delta(own, change.low_rank, adapter.transposed)
            scale = _dora(own, change.low_rank, old, name, delta, adapter.transposed)
            for start, stop in old.blocks(name):
                new = old.rows(name, start, stop).float().add_(delta(start, stop))
                yield (new if scale is None else scale(start, stop, new)).to(kind)

    return make


def _delta(own: TensorFile, low: LowRank, transposed: bool) -> Delta:
    """Rows [start, stop) of scaling * B A as they lie in the weight."""
    a, b = own.tensor(low.a).float(), own.tensor(low.b).float()
    if transposed or low.embedding:
        return lambda start, stop: (b @ a[:, start:stop]).t().mul(low.scaling)
    return lambda start, stop: (b[start:stop] @ a).mul_(low.scaling)


def _dora(
    own: TensorFile, low: LowRank, old: TensorFile, name: str, delta: Delta, transposed: bool
) -> Callable[[int, int, torch.Tensor], torch.Tensor] | None:
    """DoRA (Liu et al. 2024): magnitude / norm of W + scaling B A over each output's inputs, times that sum."""
    if low.magnitude is None:
        return None
    magnitude = own.tensor(low.magnitude).float()
    if not (transposed or low.embedding):

        def by_row(start: int, stop: int, new: torch.Tensor) -> torch.Tensor:
            return new.mul_((magnitude[start:stop] / torch.linalg.norm(new, dim=1))[:, None])

        return by_row
    squares = torch.zeros(
        old.entries[name].shape[1], dtype=torch.float64
    )  # an output is a column: look at all rows first
    for start, stop in old.blocks(name):
        squares += old.rows(name, start, stop).float().add_(delta(start, stop)).double().square_().sum(0)
    factor = (magnitude / squares.sqrt_().float())[None, :]
    return lambda start, stop, new: new.mul_(factor)
