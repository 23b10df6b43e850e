"""This process's rank in a distributed training, from the environment that :mod:`finetune_pipeline.worker.launch` set."""

import os

PROCESSES = "FINETUNE_PROCESSES"
STRATEGY = "FINETUNE_STRATEGY"


def processes_wanted() -> int:
    """How many processes a training is to be spread over."""
    return int(os.environ.get(PROCESSES) or 1)


def is_worker() -> bool:
    """Whether this process is one of several that :func:`launch` started."""
    return STRATEGY in os.environ


def is_first() -> bool:
    """Whether this process is the only one, or the one that reports and writes results."""
    return not is_worker() or os.environ.get("RANK") == "0"


def strategy() -> str:
    """How this process shares the training: ``single``, ``ddp`` or ``fsdp2``."""
    return os.environ.get(STRATEGY, "single")


def rows_per_process(batch_size: int, micro_batch_size: int, processes: int) -> int:
    """Rows of a forward pass of one process: the largest number up to micro_batch_size with which all processes make
    batch_size in whole passes. `processes` must divide batch_size."""
    share = batch_size // processes
    return max(n for n in range(1, min(micro_batch_size, share) + 1) if share % n == 0)


def rows_validated(micro: int) -> int:
    """Return the rows of a forward pass over the validation split, which has no gradients: twice those of a pass in training."""
    return 2 * micro
