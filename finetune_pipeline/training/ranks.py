"""Several processes that train one model: who is who, whose rows, sums over all of them, and the model's wrapping.

The libraries' trainers are not told of the others: each process trains as if alone on its share of every batch, and what
concerns all of them is here. So one way of counting tokens, ordering data and writing checkpoints holds for any number.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from finetune_pipeline.training.rank_environment import LAUNCHER_VARIABLES, STRATEGY, rank_and_number


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. strategy: ``single``, ``ddp`` or ``fsdp2``."""

    rank: int = 0
    number: int = 1
    strategy: str = "single"

    @property
    def first(self) -> bool:
        """Whether this process writes and tells for all."""
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each process holds only a part of the weights."""
        return self.strategy == "fsdp2"

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum over all processes; the same bits in each."""
        if self.number > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Until all processes are here."""
        if self.number > 1:
            dist.barrier()

    def told_by_first(self, value: Any) -> Any:
        """What the first process has, in all of them."""
        if self.number == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def share(self, rows: Sequence[Any]) -> list[Any]:
        """This process's rows of a batch."""
        return list(rows[self.rank :: self.number])


ALONE = Ranks()


def join() -> Ranks:
    """Meet the other processes that the launcher started (none: be alone), and hide them from the libraries."""
    rank, number = rank_and_number()
    if number == 1:
        return ALONE
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    for name in LAUNCHER_VARIABLES:
        os.environ.pop(name, None)
    return Ranks(rank, number, os.environ.get(STRATEGY, "ddp"))


@dataclass
class SharedCollator:
    """Makes a batch of this process's share of the rows. Where it has none it computes one row whose loss does not count,
    since the others wait for its part of every exchange."""

    collator: Any
    ranks: Ranks

    def __call__(self, rows: Sequence[Any]) -> dict[str, Any]:
        """What the collator gives, and ``idle``: whether its loss must not count."""
        own = self.ranks.share(rows)
        return {**self.collator(own or rows[:1]), "idle": not own}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.collator, name)


def seed_apart(ranks: Ranks, seed: int) -> None:
    """Let every process but the first draw its own dropout; the first draws what it would draw alone."""
    if not ranks.first:
        torch.manual_seed(seed + 7919 * ranks.rank)


def random_state() -> dict[str, torch.Tensor]:
    """This process's own generators, where they differ from the first one's."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random(state: Mapping[str, torch.Tensor]) -> None:
    """Put :func:`random_state` back."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])


def random_file(folder: Path, ranks: Ranks) -> Path:
    """Where a checkpoint keeps the random state of a process other than the first."""
    return folder / f"random_state-{ranks.rank}.pt"


def shard(model: Any) -> None:
    """Split a model's weights over all processes, layer by layer (FSDP2), and put them on this process's device.

    What an adapter trains stays whole in every process, next to the sharded base: it is small, and :func:`average`
    keeps it the same. With full fine-tuning everything is sharded.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(kind, (dist.get_world_size(),))
    trained = [p for p in model.parameters() if p.requires_grad]
    whole = set() if len(trained) == sum(1 for _ in model.parameters()) else set(trained)
    if kind == "cuda":
        for parameter in whole:
            parameter.data = parameter.data.to(kind)
    for layer in _layers(model):
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    fully_shard(model, mesh=mesh, ignored_params=whole)


def _layers(model: Any) -> list[Any]:
    """The repeated blocks of a transformer: the children of its longest list of modules."""
    lists = [list(m) for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    return max(lists, key=lambda blocks: (len(blocks), sum(p.numel() for b in blocks for p in b.parameters())))


def replicate(model: Any) -> Any:
    """The model for training where every process holds all of it (DDP): gradients are averaged during backward."""
    return torch.nn.parallel.DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


@contextlib.contextmanager
def not_yet(model: Any) -> Iterator[None]:
    """Gradients of the passes in here are not exchanged until a later pass outside."""
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        with model.no_sync():
            yield
        return
    sharded = [m for m in model.modules() if hasattr(m, "set_requires_gradient_sync")]
    for module in sharded:
        module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        for module in sharded:
            module.set_requires_gradient_sync(True)


def reshard(model: Any) -> None:
    """Let go of weights that a pass without gradients has left gathered; an optimiser must be given the parts."""
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()


def average(model: Any, ranks: Ranks) -> None:
    """Average the gradients of what stays whole beside a sharded base, in one exchange."""
    from torch.distributed.tensor import DTensor

    grads = [p.grad for p in model.parameters() if p.grad is not None and not isinstance(p.grad, DTensor)]
    if not grads:
        return
    flat = torch.cat([g.flatten() for g in grads])
    dist.all_reduce(flat)
    flat /= ranks.number
    for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        grad.copy_(part.view_as(grad))


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """All weights of a sharded model, tied ones once, gathered on the first process's CPU (empty in the others)."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    once = {name for name, _ in model.named_parameters()}  # gathering makes a copy for each name of a tied weight
    return {name: t for name, t in weights.items() if name in once and isinstance(t, torch.Tensor)}


def put_weights(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Put whole weights, which the first process has, into a sharded model."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_model_state_dict(model, dict(weights), options=options)


def whole_optimizer(model: Any, optimizer: Any) -> dict[str, Any]:
    """The optimiser's state of a sharded model, gathered on the first process's CPU."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return dict(get_optimizer_state_dict(model, optimizer, options=options))


def put_optimizer(model: Any, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Put a whole optimiser state, which the first process has, back into its parts."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(model, optimizer, dict(state), options=options)
