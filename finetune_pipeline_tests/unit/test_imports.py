"""The rules about who may import whom: checked in the source, and by importing for real."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from functools import lru_cache
from pathlib import Path

import pytest

import finetune_pipeline

PACKAGE = Path(finetune_pipeline.__file__).resolve().parent
LAYERS = (
    "findings",
    "progress",
    "reporting",
    "faults",
    "settings",
    "spec",
    "engine",
    "data",
    "models",
    "training",
    "evaluation",
    "planning",
    "baseline",
    "production",
    "serving",
    "report",
    "review",
    "worker",
    "trainers",
    "steps",
    "pipeline",
    "tracking",
    "orchestration",
    "definitions",
    "cli",
)
"""Packages and modules at the top of the package: each may import those before it, and none behind it."""
PLAIN = LAYERS[: LAYERS.index("tracking")]
"""What can be read, tested and used without Dagster and MLflow."""
HEAVY = (
    *("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "matplotlib"),
    *("openai", "together", "ray"),
)
ENTRY = "worker/entry.py"


def modules(*layers: str) -> list[Path]:
    """Python files of these packages and modules."""
    files = [p for layer in layers for p in (PACKAGE / f"{layer}.py", *sorted((PACKAGE / layer).rglob("*.py")))]
    return [p for p in files if p.is_file()]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, is_package: bool = False) -> set[str]:
    """Dotted names of everything imported anywhere in the file, relative imports resolved."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*parents[: len(parents) - node.level + 1], *([base] if base else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


@lru_cache
def imports_of(path: Path) -> set[str]:
    return imported(ast.parse(path.read_text("utf-8")), module_name(path), path.name == "__init__.py")


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@lru_cache
def at_import(path: Path) -> set[str]:
    """What a file imports when it is imported: not inside functions, not under TYPE_CHECKING."""
    tree = ast.parse(path.read_text("utf-8"))

    def outer(body: list[ast.stmt]) -> list[ast.stmt]:
        found: list[ast.stmt] = []
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                found += outer(node.orelse)
                continue
            nested = [n for part in ("body", "orelse", "finalbody") for n in getattr(node, part, [])]
            nested += [n for handler in getattr(node, "handlers", []) for n in handler.body]
            found += [node] if isinstance(node, ast.Import | ast.ImportFrom) else outer(nested)
        return found

    return imported(ast.Module(outer(tree.body), []), module_name(path), path.name == "__init__.py")


def loaded_by(*names: str) -> dict[str, list[str]]:
    """What each module brings into an interpreter that has imported those before it, of the packages that matter here."""
    code = (
        "import importlib, json, sys\n"
        "watched = set(json.loads(sys.argv[2])); brought = {}; before = set()\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        importlib.import_module(name)\n"
        "    except BaseException as error:\n"
        "        brought[name] = [f'cannot be imported: {error!r}']\n"
        "        continue\n"
        "    now = watched & {m.split('.')[0] for m in sys.modules}\n"
        "    brought[name] = sorted(now - before); before = now\n"
        "print(json.dumps(brought))\n"
    )
    watched = ["dagster", "dagster_pipes", "mlflow", *HEAVY]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(names), json.dumps(watched)],
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout)


def is_torch_free(path: Path, seen: set[Path] | None = None) -> bool:
    """Whether importing a file imports nothing heavy, by itself or through files of this package. seen: files looked at
    already; each is looked at once, since the ways through the package are too many to go them all."""
    seen = set() if seen is None else seen
    seen.add(path)
    names = at_import(path)
    if roots(names) & set(HEAVY):
        return False
    inner = {
        PACKAGE.parent / Path(*name.split(".")).with_suffix(".py")
        for name in names
        if name.startswith("finetune_pipeline.")
    }
    return all(is_torch_free(p, seen) for p in sorted(inner) if p.is_file() and p not in seen)


def test_private_modules_of_dagster_are_used_in_one_file() -> None:
    users = [path for path in modules(*LAYERS) if any(name.startswith("dagster._") for name in imports_of(path))]
    assert [path.name for path in users] == ["dagster_internals.py"]


def test_every_package_has_its_layer() -> None:
    found = {
        p.name.removesuffix(".py") for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert found - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_downwards(layer: str) -> None:
    above = {f"finetune_pipeline.{name}" for name in LAYERS[LAYERS.index(layer) + 1 :]}
    wrong = {
        str(path.relative_to(PACKAGE)): sorted(n for n in imports_of(path) if ".".join(n.split(".")[:2]) in above)
        for path in modules(layer)
    }
    assert not {path: names for path, names in wrong.items() if names}


def test_plain_packages_import_neither_dagster_nor_mlflow() -> None:
    skin = {"dagster", "dagster_pipes", "mlflow"}
    found = {str(p.relative_to(PACKAGE)): roots(imports_of(p)) & skin for p in modules(*PLAIN)}
    assert {path: names for path, names in found.items() if names} == {ENTRY: {"dagster_pipes"}}


def test_importing_a_plain_module_loads_neither_dagster_nor_mlflow_nor_torch() -> None:
    names = [module_name(p) for p in modules(*PLAIN) if is_torch_free(p) and str(p.relative_to(PACKAGE)) != ENTRY]
    assert len(names) > 30
    brought = loaded_by(*names)
    assert not {name: found for name, found in brought.items() if found}


def test_what_dagster_loads_brings_no_torch_and_no_mlflow() -> None:
    found = loaded_by("finetune_pipeline.definitions")["finetune_pipeline.definitions"]
    assert found == ["dagster", "dagster_pipes"]


def test_the_test_itself_sees_what_it_looks_for() -> None:
    tree = ast.parse("def f():\n    from mlflow.entities import Run\nimport dagster as dg\nfrom ..spec import model\n")
    assert imported(tree, "finetune_pipeline.data.x") == {
        "mlflow.entities",
        "mlflow.entities.Run",
        "dagster",
        "finetune_pipeline.spec",
        "finetune_pipeline.spec.model",
    }
    assert loaded_by("mlflow.version", "json", "no_such_module") == {
        "mlflow.version": ["mlflow"],
        "json": [],
        "no_such_module": ["cannot be imported: ModuleNotFoundError(\"No module named 'no_such_module'\")"],
    }


def test_torch_is_found_through_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "finetune_pipeline"
    package.mkdir()
    (package / "heavy.py").write_text("try:\n    import torch\nexcept ImportError:\n    raise\n")
    (package / "through.py").write_text("from finetune_pipeline.heavy import x\n")
    (package / "lazy.py").write_text("if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch\n")
    monkeypatch.setitem(globals(), "PACKAGE", package)
    assert [is_torch_free(package / name) for name in ("heavy.py", "through.py", "lazy.py")] == [False, False, True]


def test_every_file_beside_the_code_is_part_of_a_wheel() -> None:
    declared = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packed = {path for pattern in declared["finetune_pipeline"] for path in PACKAGE.glob(pattern)}
    there = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py" and p.parent.name != "__pycache__"}
    assert packed == there


def defined_in(path: Path) -> set[str]:
    """Every name that a module binds."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("folder", ["benchmarks", "tools", "finetune_pipeline_tests"])
def test_what_scripts_and_tests_import_of_the_package_is_there(folder: str) -> None:
    """Scripts are run by hand, so nothing else would tell that what they import has gone."""
    gone = []
    for path in sorted((PACKAGE.parent / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("finetune_pipeline"):
                continue
            place = PACKAGE.parent.joinpath(*str(node.module).split("."))
            source = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
            names = defined_in(source) if source.exists() else set()
            gone += [
                f"{path.name}: {node.module}.{alias.name}"
                for alias in node.names
                if alias.name not in names
                and not (place / f"{alias.name}.py").exists()
                and not (place / alias.name).is_dir()
            ]
    assert gone == []
