"""Builds this checkout's wheel and installs it into a virtual environment that cannot see the checkout."""

import os
import shutil
import subprocess
import sys
import venv
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_REMOVED = ("PYTHONPATH", "DAGSTER_HOME", "MLFLOW_TRACKING_URI")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in _REMOVED and not k.startswith("FINETUNE_")}
"""The environment without variables that configure the pipeline."""


_run = partial(subprocess.run, check=True, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
_PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


def build(folder: Path) -> Path:
    """Build the wheel from a copy of the sources. Returns its path, in a folder of its own."""
    source, wheels, package = folder / "source", folder / "wheels", "finetune_pipeline"
    shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    _run([*_PIP, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(wheels), str(source)])
    (wheel,) = wheels.glob("*.whl")
    return wheel


def install(folder: Path) -> Path:
    """Build the wheel and install it. Returns the folder of the virtual environment.

    Nothing is downloaded: a .pth file adds the current environment's site-packages for the dependencies.
    """
    wheel, environment = build(folder), folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    _run([*_PIP, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)])
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Python ignores .pth files in folders added by a .pth file, so an editable install cannot lead back to the checkout
    (site_packages / "dependencies.pth").write_text("\n".join(p for p in sys.path if Path(p).name == "site-packages"))
    return environment


def command(environment: Path, *arguments: str) -> list[str]:
    """A command line of `finetune` in that environment."""
    return [str(environment / "bin" / "finetune"), *arguments]
