"""The wheel of this checkout, installed into an environment of its own that has nothing else of ours."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_OURS = ("PYTHONPATH", "DAGSTER_HOME", "MLFLOW_TRACKING_URI")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in _OURS and not k.startswith("FINETUNE_")}
"""Variables of somebody who set none of ours."""


def install(folder: Path) -> Path:
    """Build the wheel from a copy of the sources, and install it. Returns the folder of the new environment.

    Nothing is downloaded: the other packages are those of the present environment, whose folders stand behind the new one's.
    """
    source, environment, wheels = folder / "source", folder / "environment", folder / "wheels"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        source.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "finetune_pipeline", source / "finetune_pipeline", ignore=shutil.ignore_patterns("__pycache__")
    )
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    quiet: dict[str, Any] = {"check": True, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(wheels), str(source)]
    subprocess.run([*pip, *build], **quiet)
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], **quiet)
    (own,) = environment.glob("lib/python*/site-packages")
    # not processed themselves, .pth files of these folders cannot lead back to the checkout
    (own / "others.pth").write_text("\n".join(p for p in sys.path if Path(p).name == "site-packages"))
    return environment


def command(environment: Path, *arguments: str) -> list[str]:
    """`finetune` of that environment."""
    return [str(environment / "bin" / "finetune"), *arguments]
