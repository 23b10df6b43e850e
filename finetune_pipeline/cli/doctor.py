"""``finetune doctor``: hardware of this machine, and what would run where."""

from dataclasses import asdict

import click

from finetune_pipeline.cli.output import DONE, REFUSED, as_json, tell
from finetune_pipeline.orchestration.resources import child_environment
from finetune_pipeline.settings import read_settings
from finetune_pipeline.worker.doctor import examine_machine, machine_lines


@click.command()
@as_json
def doctor() -> int:
    """Describe this machine: devices, memory, disk, libraries, what runs where in which precision, and what is slow.
    Exit code 2: a device is unusable.
    """
    settings = read_settings()
    machine = examine_machine(settings.devices, settings.home, lambda place: child_environment(place, {}))
    tell({**asdict(machine), "right": machine.right}, *machine_lines(machine))
    return DONE if machine.right else REFUSED
