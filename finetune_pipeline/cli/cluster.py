"""``finetune cluster up|down``: a small Ray cluster on this machine, for `training.trainer: ray`."""

from __future__ import annotations

import click

from finetune_pipeline.cli.output import DONE, say
from finetune_pipeline.settings import read_settings
from finetune_pipeline.trainers.ray_cluster import start_cluster, stop_cluster


@click.group()
def cluster() -> None:
    """Start or stop a Ray cluster on this machine.

    \b
    finetune cluster up      # training.trainer: ray finds it by itself
    finetune cluster down
    """


@cluster.command()
@click.option("--cpus", type=click.IntRange(min=1), help="CPUs it shares out; unset: all of this machine.")
def up(cpus: int | None) -> int:
    """Start it, on free ports of 127.0.0.1, for this user alone."""
    running = start_cluster(read_settings().home, cpus)
    say(f"a Ray cluster runs at {running.address}; tasks with training.trainer: ray train on it")
    say("`finetune cluster down` ends it")
    return DONE


@cluster.command()
def down() -> int:
    """End it, with every job that runs there."""
    say("the Ray cluster has ended" if stop_cluster(read_settings().home) else "no Ray cluster was started here")
    return DONE
