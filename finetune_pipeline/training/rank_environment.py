"""What the launcher tells each of several training processes, through its environment. No torch."""

from __future__ import annotations

import os

PROCESSES = "FINETUNE_PROCESSES"
STRATEGY = "FINETUNE_STRATEGY"
ENDS = "FINETUNE_RANK_ENDS"
"""Folder in which each process says how it ended, so that the launcher can tell a cause from its consequences."""

_OWN = "FINETUNE_RANK"

LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
"""Read by torch's meeting of the processes; the libraries must not see them afterwards."""


def is_rank() -> bool:
    """Whether this process is one of several that a launcher started."""
    return ENDS in os.environ


def rank_and_number() -> tuple[int, int]:
    """(this process's number from 0, how many there are)."""
    if not is_rank():
        return 0, 1
    if _OWN not in os.environ:
        os.environ[_OWN] = f"{os.environ['RANK']}/{os.environ['WORLD_SIZE']}"  # torch's own are hidden later
    rank, number = os.environ[_OWN].split("/")
    return int(rank), int(number)


def processes_wanted() -> int:
    """How many processes a training is to be spread over."""
    return int(os.environ.get(PROCESSES) or 1)


def tells() -> bool:
    """Whether this process is the one that reports and writes results."""
    return rank_and_number()[0] == 0


def take_own_device() -> None:
    """Leave this process its own one of the devices it could see, so that to all libraries it is the only one."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if is_rank() and seen:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[int(os.environ["LOCAL_RANK"])]
