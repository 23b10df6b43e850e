"""``finetune doctor``: what this machine is, what would run where on it, and whether its kernels compute rightly."""

from __future__ import annotations

from dataclasses import asdict

import click

from finetune_pipeline.cli.output import DONE, REFUSED, as_json, emit, say
from finetune_pipeline.orchestration.resources import child_environment
from finetune_pipeline.settings import read_settings
from finetune_pipeline.worker.doctor import look, machine_lines


@click.command()
@as_json
def doctor(as_json: bool) -> int:
    """Say what this machine is: devices, memory, disk, libraries, what runs where in which precision, and what is slow. Each
    kernel that training and merging use is held against its definition. Exit code 2: one is wrong, or a device unusable.
    """
    settings = read_settings()
    machine = look(settings.devices, settings.home, lambda place: child_environment(place, {}))
    if as_json:
        emit({**asdict(machine), "right": machine.right})
    else:
        say(*machine_lines(machine))
    return DONE if machine.right else REFUSED
