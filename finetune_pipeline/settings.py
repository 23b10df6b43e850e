"""Reads the settings of this machine from the environment and the working folder. Paths are always absolute.

Commands pass the settings to the processes they start (web server, daemon, step, training child), so that all use the
same folders.
"""

import importlib.metadata
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from finetune_pipeline.faults import OutsideError

ANSWERS_MIB = 512
WORKER_MODULE = "finetune_pipeline.worker.entry"
PROJECT_HOME = ".finetune"
"""Name of the home folder in a project."""
_SEVERAL_DEVICES = "for one training on several devices, set training.trainer: ray and training.ray.workers"
_GONE = {"FINETUNE_PARALLEL": _SEVERAL_DEVICES}
"""Variables of earlier versions, with what to use instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings. project: see project_root; home: everything the pipeline makes; data_root: one folder per task."""

    project: Path
    home: Path
    data_root: Path
    tracking_uri: str
    devices: tuple[str, ...]
    answers_mib: int = ANSWERS_MIB
    worker_module: str = WORKER_MODULE

    @property
    def artifacts(self) -> Path:
        """Return the root of the artifact store."""
        return self.home / "artifacts"


def project_root() -> Path:
    """Return the folder of the project that contains the working folder.

    This is the working folder if it has `data/`; else the nearest folder, itself or above, that has `.finetune/`, or tasks in
    `data/`; else itself. Above it, `data/` alone is not enough: `/data` and `~/data` of other programs are common.
    """
    try:
        start = Path.cwd()
    except FileNotFoundError:
        raise OutsideError("the working folder was deleted; change to another one") from None
    if os.path.isdir(start / "data"):  # unlike Path.is_dir, returns False where access is denied
        return start
    for folder in (start, *start.parents):
        if os.path.isdir(folder / PROJECT_HOME) or next(folder.glob("data/*/task.yaml"), None):
            return folder
    return start


def read_settings() -> Settings:
    """Read the settings from the environment. An empty variable counts as unset.

    FINETUNE_HOME (default: .finetune in the project), FINETUNE_DATA (data in the project), MLFLOW_TRACKING_URI (SQLite below
    home; a relative SQLite path is relative to the project), FINETUNE_DEVICES (comma-separated ``cpu`` or ``cuda:N``, one
    job each; default: the visible GPUs, else the CPU), FINETUNE_WORKER_MODULE (module that runs a job file in a child process;
    tests use one that starts workers from a warm process).
    Raises OutsideError for invalid devices, for a home or a tracking address that MLflow cannot use, and for variables that
    had a meaning in earlier versions.
    """
    env = os.environ
    for name, replacement in _GONE.items():
        if env.get(name, "").strip():
            raise OutsideError(f"{name} has no meaning any more", f"unset it; {replacement}")

    def folder(name: str, default: Path) -> Path:
        path = env.get(name, "").strip()
        try:
            return Path(path).expanduser().absolute() if path else default
        except RuntimeError as error:
            raise OutsideError(f"{name}={path!r}: {error} Write the folder without ~") from error

    project = project_root()
    home = folder("FINETUNE_HOME", project / PROJECT_HOME)
    _refuse_in_address(str(home), "set FINETUNE_HOME to another")
    return Settings(
        project=project,
        home=home,
        data_root=folder("FINETUNE_DATA", project / "data"),
        tracking_uri=_tracking_uri(env.get("MLFLOW_TRACKING_URI", "").strip(), project, home),
        devices=_devices(env.get("FINETUNE_DEVICES", ""))
        or visible_gpus(env, Path("/dev"), _torch_build())
        or ("cpu",),
        answers_mib=_answers_mib(env.get("FINETUNE_ANSWERS_MIB", "").strip()),
        worker_module=env.get("FINETUNE_WORKER_MODULE", "").strip() or WORKER_MODULE,
    )


def _tracking_uri(uri: str, project: Path, home: Path) -> str:
    if not uri:
        return f"sqlite:///{home}/mlflow/mlflow.db"
    if uri.startswith("databricks"):  # the one address without ://
        return uri
    scheme, separator, address = uri.partition("://")
    if not separator or scheme == "file":
        raise OutsideError(
            f"MLFLOW_TRACKING_URI={uri!r}: MLflow stores runs in a database or behind a server; write "
            "sqlite:////absolute/path/mlflow.db or http://host:port, or unset it"
        )
    if scheme != "sqlite":
        return uri
    path, mark, options = address.removeprefix("/").partition("?")
    _refuse_in_address(address if "/" in options else path, "correct MLFLOW_TRACKING_URI")
    return f"sqlite:///{project / path}{mark}{options}"


def _refuse_in_address(path: str, otherwise: str) -> None:
    """Raise OutsideError if a path cannot be part of a database's address: some libraries decode ? and %XX, others do not."""
    if re.search("[?]|%[0-9A-Fa-f]{2}", path) or ("'" in path and '"' in path):
        raise OutsideError(
            f"{path}: addresses of databases cannot hold ? or %XX, nor both quotes, ' and \"",
            f"rename the folder, or {otherwise}",
        )


def _devices(value: str) -> tuple[str, ...]:
    """Parse the places for jobs: ``cpu`` or ``cuda:N``."""
    places = [place.strip() for place in value.split(",") if place.strip()]
    if invalid := [place for place in places if not re.fullmatch(r"cpu|cuda:[0-9]+", place)]:
        shared = f"; {_SEVERAL_DEVICES}" if any("+" in place for place in invalid) else ""
        raise OutsideError(
            f"FINETUNE_DEVICES: {', '.join(map(repr, invalid))} is no device; write cpu, cuda:0, or cuda:0,cuda:1 (one job a "
            f"device){shared}"
        )
    return tuple(dict.fromkeys(places))


def visible_gpus(environment: Mapping[str, str], dev: Path, torch_build: str) -> tuple[str, ...]:
    """Return the NVIDIA GPUs that jobs can use, as ``cuda:N``; found without a library, since settings are read often.

    Args:
        environment: CUDA_VISIBLE_DEVICES, if set, restricts the GPUs.
        dev: The folder of device files.
        torch_build: Version of torch; a CPU build can use no GPU.
    """
    installed = sum(re.fullmatch(r"nvidia\d+", path.name) is not None for path in dev.glob("nvidia*"))
    if not installed or not torch_build or torch_build.endswith("+cpu"):
        return ()
    visible = shown_gpus(environment)
    count = installed if visible is None else len(visible)
    return tuple(f"cuda:{n}" for n in range(count))


def shown_gpus(environment: Mapping[str, str]) -> list[str] | None:
    """Return the GPUs in CUDA_VISIBLE_DEVICES: indices, ``GPU-…`` or ``MIG-…``, up to the first invalid name, as CUDA does.

    None: it is unset, and all GPUs are visible.
    """
    value = environment.get("CUDA_VISIBLE_DEVICES")
    names = (value or "").split(",")
    gpu = re.compile(r"[0-9]+|(GPU|MIG)-.+")
    return None if value is None else list(takewhile(gpu.fullmatch, (name.strip() for name in names)))


@cache
def _torch_build() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


def _answers_mib(value: str) -> int:
    if not value:
        return ANSWERS_MIB
    if value.isascii() and value.isdigit():
        return int(value)
    raise OutsideError(f"FINETUNE_ANSWERS_MIB={value!r}: write a whole number of MiB; 0 keeps no answers")
