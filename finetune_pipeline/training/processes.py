"""This process's part in a training by several workers, from the environment that Ray Train and trainers.ray_job set."""

import os

STRATEGY = "FINETUNE_STRATEGY"


def is_worker() -> bool:
    """Whether this process is one of the workers of a cluster."""
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


def validation_rows_per_pass(micro: int) -> int:
    """Return the rows of a forward pass over the validation split: twice those in training, since it has no gradients."""
    return 2 * micro
