"""``finetune cluster up|down``: a small Ray cluster on this machine, for `training.trainer: ray`."""

import click

from finetune_pipeline.cli.output import DONE, say
from finetune_pipeline.settings import read_settings
from finetune_pipeline.trainers.ray_cluster import start_cluster, stop_cluster


@click.group()
def cluster() -> None:
    """Start or stop a Ray cluster on this machine. `training.trainer: ray` finds it by itself."""


@cluster.command()
@click.option("--cpus", type=click.IntRange(min=1), help="CPUs of the cluster. Unset: all of this machine.")
def up(cpus: int | None) -> int:
    """Start the cluster on free ports of 127.0.0.1, for this user only."""
    running = start_cluster(read_settings().home, cpus)
    say(f"a Ray cluster runs at {running.address}; tasks with training.trainer: ray train on it")
    say("`finetune cluster down` stops it")
    return DONE


@cluster.command()
def down() -> int:
    """Stop the cluster and all its jobs."""
    say("the Ray cluster was stopped" if stop_cluster(read_settings().home) else "no Ray cluster runs here")
    return DONE
