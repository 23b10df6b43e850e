"""Describes a machine and what runs where on it.

A separate process examines each device (``python -m finetune_pipeline.worker.doctor DEVICE OUT.json``) and sees only that
device: a driver that crashes or hangs is reported.
"""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import psutil

from finetune_pipeline.data.workers import available_cores
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.models.hardware import cpu_has_bfloat16, cpu_model, has_nvidia

CHILD_SECONDS = 120.0
"""Time limit of the child process, most of it for imports."""
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "dagster", "mlflow", "scikit-learn")
LITTLE_DISK, LITTLE_MEMORY = 10 << 30, 8 << 30
"""Bytes below which the doctor warns."""


@dataclass(frozen=True)
class Device:
    """A device for jobs. precision: of training, and of serving models stored in 16 bits; problem: why it cannot be used."""

    place: str
    name: str
    memory_bytes: int
    bfloat16: bool
    precision: str
    four_bit: str
    problem: str = ""


@dataclass(frozen=True)
class Machine:
    """The doctor's result. runs: what runs where; slow: bottlenecks and their fixes."""

    system: str
    cores: int
    memory_bytes: int
    available_bytes: int
    disk_free_bytes: int
    home: str
    versions: dict[str, str]
    devices: list[Device]
    runs: list[str]
    slow: list[str]

    @property
    def right(self) -> bool:
        return not any(device.problem for device in self.devices)


def examine_machine(places: Sequence[str], home: Path, environment: Callable[[str], Mapping[str, str]]) -> Machine:
    """Examine this machine. places: devices for jobs, as in FINETUNE_DEVICES. home: folder whose disk is checked. environment:
    returns the environment of a child process that sees only the given device."""
    devices = [_examine_in_child(place, environment) for place in places]
    memory = psutil.virtual_memory()
    existing_folder = next(folder for folder in (home, *home.parents) if folder.exists())
    machine = Machine(
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        cores=available_cores(),
        memory_bytes=memory.total,
        available_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(existing_folder).free,
        home=str(home),
        versions={name: _version(name) for name in PACKAGES},
        devices=devices,
        runs=[_what_runs(device) for device in devices] + ["data checks, simple models and reports run on the CPU"],
        slow=[],
    )
    machine.slow.extend(_bottlenecks(machine))
    return machine


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _what_runs(device: Device) -> str:
    """Describe what a device can run, and in which precision."""
    if device.problem:
        return f"{device.place}: unusable until this is solved: {device.problem}"
    storage = f"4-bit bases (qlora) with {device.four_bit}" if device.four_bit else "no 4-bit bases (qlora)"
    return f"{device.place}: training and answering in {device.precision}; {storage}"


def _bottlenecks(machine: Machine) -> list[str]:
    """Return what makes jobs slow or fail on this machine, with fixes."""
    remarks, on_gpu = [], any(d.place != "cpu" for d in machine.devices)
    if not on_gpu:
        remarks.append(
            "training runs on the CPU, which suits small models; it says after its first steps how long it will take, and "
            "training.trainer names other places"
        )
        if not machine.devices[0].bfloat16 and not machine.devices[0].problem:
            remarks.append("this CPU does not multiply bfloat16: float32 takes twice the memory and more time")
    if not on_gpu and has_nvidia():
        remarks.append(
            "no job uses this machine's NVIDIA GPU: install a CUDA build of torch, and unset FINETUNE_DEVICES"
        )
    if machine.available_bytes < LITTLE_MEMORY:
        remarks.append(f"{_gib(machine.available_bytes)} of memory are free: `finetune plan TASK` says what fits")
    if machine.disk_free_bytes < LITTLE_DISK:
        shortage = f"{_gib(machine.disk_free_bytes)} are free on the disk of {machine.home}"
        remarks.append(f"{shortage}: each merged model is kept there")
    return remarks


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def machine_lines(machine: Machine) -> list[str]:
    """Return the doctor's result as lines of text."""
    lines = [
        machine.system,
        f"{machine.cores} cores, {_gib(machine.memory_bytes)} of memory ({_gib(machine.available_bytes)} free), "
        f"{_gib(machine.disk_free_bytes)} free on disk for {machine.home}",
        ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
    ]
    for device in machine.devices:
        native = "bfloat16 natively" if device.bfloat16 else "no native bfloat16"
        lines.append(f"{device.place}: {device.name}, {_gib(device.memory_bytes)}, {native}")
        if device.problem:
            lines.append(f"  problem: {device.problem}")
    return [*lines, *(f"runs: {line}" for line in machine.runs), *(f"slow: {line}" for line in machine.slow)]


def _examine_in_child(place: str, environment: Callable[[str], Mapping[str, str]]) -> Device:
    """Examine a device in a child process; if that fails, return an unusable device with the problem."""
    with tempfile.TemporaryDirectory(prefix="finetune-doctor-") as folder:
        result_file = Path(folder) / "device.json"
        command = [sys.executable, "-P", "-m", __spec__.name, place, str(result_file)]
        try:
            env = dict(environment(place))
            child = subprocess.run(command, env=env, timeout=CHILD_SECONDS, capture_output=True, text=True, check=False)
        except OutsideError as error:  # CUDA_VISIBLE_DEVICES hides it
            return _unusable_device(place, str(error))
        except subprocess.TimeoutExpired:
            return _unusable_device(place, f"examining it did not end within {CHILD_SECONDS:g} s")
        if child.returncode or not result_file.is_file():
            last_line = (child.stderr.strip().splitlines() or ["no message"])[-1]
            return _unusable_device(place, f"examining it ended with code {child.returncode}: {last_line[:300]}")
        return msgspec.json.decode(result_file.read_bytes(), type=Device)


def _unusable_device(place: str, problem: str) -> Device:
    return Device(place, "unknown", 0, False, "", "", problem=problem)


def examine(place: str) -> Device:
    """Examine the only visible device."""
    import torch

    from finetune_pipeline.models.loading import native_bfloat16, pick_device, resolve_precision

    device = pick_device()
    if (device.type == "cpu") != (place == "cpu"):
        build = "no CUDA build" if torch.version.cuda is None else f"built for CUDA {torch.version.cuda}"
        return _unusable_device(
            place, f"torch sees no such GPU (torch {torch.__version__} is {build}); look at nvidia-smi"
        )
    cuda = device.type == "cuda"
    precision = resolve_precision("auto", device)
    return Device(
        place=place,
        name=torch.cuda.get_device_name(device) if cuda else cpu_model(),
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if cuda else psutil.virtual_memory().total,
        bfloat16=native_bfloat16(device) if cuda else cpu_has_bfloat16(),
        precision=str(precision).removeprefix("torch."),
        four_bit=_four_bit_library(device.type),
    )


def _four_bit_library(kind: str) -> str:
    """Return the library for 4-bit weights: bitsandbytes' compiled one, or its slower PyTorch fallback; empty if none."""
    try:
        import bitsandbytes
        from bitsandbytes.cextension import lib
    except (ImportError, RuntimeError, OSError):
        return ""
    is_native = "Native" in type(lib).__name__ and "Mock" not in type(lib).__name__
    compiled = is_native and (kind == "cpu" or bool(getattr(lib, "compiled_with_cuda", False)))
    return f"bitsandbytes {bitsandbytes.__version__}, {'compiled' if compiled else 'PyTorch fallback'} for {kind}"


if __name__ == "__main__":
    from finetune_pipeline.worker.entry import DEFAULTS, ENVIRONMENT

    os.environ.update({**{k: os.environ.get(k, v) for k, v in DEFAULTS.items()}, **ENVIRONMENT, "HF_HUB_OFFLINE": "1"})
    write_json(Path(sys.argv[2]), asdict(examine(sys.argv[1])))
