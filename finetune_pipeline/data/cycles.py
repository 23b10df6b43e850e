"""Python's search for cyclic garbage, put off while rows are made by the hundred thousand.

Rows, their texts and columns never refer to each other in cycles, but each that is made brings the next search nearer, and
a search looks at every object of the process: a tenth to a fifth of the time of a data step.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def cycles_left_alone() -> Iterator[None]:
    """No search for cyclic garbage inside; also as a decorator. What is not in a cycle is freed at once, as always.

    What was made meanwhile and is still there counts as old afterwards: otherwise the next object that is made would start a
    search through all of it.
    """
    searched = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searched:
            if not gc.get_freeze_count():  # the two put all objects among the old ones, and look at none
                gc.freeze()
                gc.unfreeze()
            gc.enable()
