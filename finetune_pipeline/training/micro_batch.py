"""The rows of one forward and backward pass: halved when they do not fit into memory, with as many rows in each optimiser step.

The halved size is kept in the work folder, so that a rerun after a kill does not try the larger one again.
"""

import contextlib
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict, TypeVar

import torch

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import is_out_of_memory
from finetune_pipeline.reporting import say
from finetune_pipeline.training.processes import is_worker, rows_per_process

Result = TypeVar("Result")
FILE = "micro_batch.json"


class PassTooLarge(MemoryError):
    """Raised if a pass of training or validation did not fit into memory; `rows`: the micro-batch."""

    def __init__(self, rows: int, reason: str) -> None:
        super().__init__(f"{rows} row{'s' * (rows > 1)} at once do{'es' * (rows == 1)} not fit into memory: {reason}")
        self.rows = rows


class _Halved(TypedDict):
    job: str
    rows: int


def micro_batch(work: Path, job_digest: str, declared: int) -> int:
    """Return the rows of a pass: as declared, or as an earlier attempt of this job has halved them."""
    try:
        halved = read_json(work / FILE, _Halved)
    except FileNotFoundError:
        return declared
    return halved["rows"] if halved["job"] == job_digest else declared


@contextlib.contextmanager
def passes_of(rows: int) -> Iterator[None]:
    """Raise PassTooLarge instead of an out-of-memory error, whichever library or device it is from."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise PassTooLarge(rows, str(error).partition("\n")[0] or type(error).__name__) from error


def train_in_halves(
    attempt: Callable[[], Result], work: Path, job_digest: str, batch_size: int, stage: str, least: int = 1
) -> Result:
    """Return the result of `attempt`; after PassTooLarge halve the micro-batch and try again, from the last checkpoint.

    Raises PassTooLarge if the `least` rows that a pass needs do not fit, or if several processes share the training: all would
    have to agree.
    """
    while True:
        try:
            return attempt()
        except PassTooLarge as error:
            rows = error.rows
            halved = rows_per_process(batch_size, rows // 2, 1) if rows > 1 else 0
            if halved < least or is_worker():
                raise
        # outside the handler: the error's traceback held the model and every tensor of the failed pass
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        write_json(work / FILE, _Halved(job=job_digest, rows=halved))
        say(
            f"{stage}: {rows} rows at once do not fit into memory; going on with {halved} and as many rows in every step "
            f"({batch_size // halved} passes)"
        )
