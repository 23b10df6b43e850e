"""Halves batches for which the memory does not suffice, without keeping the tensors of the failed pass."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from finetune_pipeline.faults import is_out_of_memory
from finetune_pipeline.reporting import say

Result = TypeVar("Result")


def fits_memory(compute: Callable[[], Result]) -> Result | None:
    """Return the result, or None if the memory did not suffice; the failed pass has then been freed."""
    try:
        return compute()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # outside the handler: the error's traceback held every tensor of the failed pass
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def halve_until_it_fits(
    batches: Iterable[Sequence[int]], compute: Callable[[Sequence[int]], Result], stage: str
) -> Iterator[Result]:
    """Yield the result (not None) of every batch of rows, in order. A batch that does not fit into memory is halved, and later
    batches are cut to that size. Raises MemoryError if a single row does not fit."""
    pending, largest = deque(batches), 0
    while pending:
        rows = pending.popleft()
        if largest and len(rows) > largest:
            pending.extendleft(reversed([rows[i : i + largest] for i in range(0, len(rows), largest)]))
            continue
        result = fits_memory(lambda rows=rows: compute(rows))  # type: ignore[misc]
        if result is not None:
            yield result
            continue
        if len(rows) == 1:
            raise MemoryError(f"one row alone (number {rows[0] + 1} of this job's) does not fit into memory")
        largest = -(-len(rows) // 2)
        say(f"{stage}: {len(rows)} rows at once do not fit into memory; going on with {largest}")
        pending.appendleft(rows)
