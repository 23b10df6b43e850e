"""Maps a function over blocks of work, in a process pool if there is much work, or elsewhere (:func:`spread_by`)."""

import contextlib
import gc
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
LARGE = 64 << 20
"""Bytes of work from which a process pool is faster; starting one takes two seconds."""

_InOrder = Callable[[Callable[[Any], Any], Iterable[Any], int], Iterator[Any]]
_replacements: list[_InOrder] = []


@contextlib.contextmanager
def spread_by(replacement: _InOrder) -> Iterator[None]:
    """Let `replacement` do the work of :func:`in_order`, for example on other machines."""
    _replacements.append(replacement)
    try:
        yield
    finally:
        _replacements.remove(replacement)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], size: int) -> Iterator[Result]:
    """Yield function(item) for every item, in order.

    Args:
        function: Must be picklable.
        items: At most two per process are in progress, so memory stays bounded.
        size: Total bytes of the items; from LARGE on, a process pool works on them.

    Raises:
        RuntimeError: A process of the pool died.
    """
    if _replacements:
        yield from _replacements[-1](function, items, size)
        return
    cores = min(available_cores(), 8)
    if size < LARGE or cores < 2:
        yield from map(function, items)
        return
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn"), initializer=_begin) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"one of {cores} worker processes died, most likely for lack of memory: "
                "close other programs, or run on a machine with more memory, and start again"
            ) from error


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin() -> None:
    """End this process when its parent dies; otherwise it would wait for work forever. Turns off the cyclic garbage collector:
    it takes a tenth of the time, and rows are freed without it."""
    gc.disable()
    parent = parent_process()
    if parent is not None:
        Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
