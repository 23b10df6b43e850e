"""This process's rank in a distributed training, from the environment that :mod:`finetune_pipeline.worker.launch` set."""

import os

PROCESSES = "FINETUNE_PROCESSES"
STRATEGY = "FINETUNE_STRATEGY"


def process_count() -> int:
    """Return the number of processes to spread a training over."""
    return int(os.environ.get(PROCESSES) or 1)


def is_worker() -> bool:
    """Whether this process is one of several that :func:`launch` started."""
    return STRATEGY in os.environ


def is_first() -> bool:
    """Whether this process reports and writes results: the only one, or the one of rank 0."""
    return not is_worker() or os.environ.get("RANK") == "0"


def strategy() -> str:
    """Return how this process shares the training: ``single``, ``ddp`` or ``fsdp2``."""
    return os.environ.get(STRATEGY, "single")


def rows_per_process(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Return the rows of one process's forward pass: the largest number up to micro_batch_size with which all processes
    complete batch_size in whole passes. `processes` must divide batch_size."""
    share = batch_size // processes
    return max(n for n in range(1, min(micro_batch_size, share) + 1) if share % n == 0)


def uneven_batches(batch_size: int, number: int, kind: str) -> tuple[str, str] | None:
    """Return what is wrong, and which sizes would be right, if a number of devices or workers cannot share batches evenly."""
    if batch_size % number == 0:
        return None
    near = batch_size // number * number or number
    problem = f"batches of {batch_size} rows cannot be split over {number} {kind}"
    return problem, f"set training.batch_size: {near} or {near + number}"


def validation_rows_per_pass(micro: int) -> int:
    """Return the rows of a forward pass over the validation split: twice those in training, since it has no gradients."""
    return 2 * micro
