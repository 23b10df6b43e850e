"""The rules about who may import whom: checked in the source, and by importing for real."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import finetune_pipeline

PACKAGE = Path(finetune_pipeline.__file__).resolve().parent
LAYERS = tuple(
    "escaping findings progress reporting faults plugins settings spec engine data jobs models training evaluation "
    "planning baseline production serving report review worker trainers steps pipeline tracking "
    "orchestration definitions component cli api".split()
)
"""Packages and modules at the top of the package: each may import those before it, and none behind it."""
PLAIN = LAYERS[: LAYERS.index("tracking")]
"""What can be read, tested and used without Dagster and MLflow."""
HEAVY = tuple("torch transformers peft trl bitsandbytes accelerate datasets matplotlib openai together ray".split())
ENTRY = "worker/entry.py"


def modules(*layers: str) -> list[Path]:
    """Python files of these packages and modules."""
    files = [p for layer in layers for p in (PACKAGE / f"{layer}.py", *sorted((PACKAGE / layer).rglob("*.py")))]
    return [p for p in files if p.is_file()]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path: Path, at_import: bool = False) -> set[str]:
    """Dotted names of everything a file imports, relative imports resolved. at_import: only what it imports when it is
    imported itself: not inside functions, not under TYPE_CHECKING."""
    module, names = module_name(path).split("."), set()
    nodes = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = module[: len(module) - node.level + (path.name == "__init__.py")] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (at_import and lazy):
            nodes += node.orelse if at_import and typing else ast.iter_child_nodes(node)
    return names


def roots(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


def loaded_by(*names: str) -> dict[str, list[str]]:
    """What each module brings into an interpreter that has imported those before it, of the packages that matter here."""
    code = """import importlib, json, sys
watched = set(json.loads(sys.argv[2])); brought = {}; before = set()
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except BaseException as error:
        brought[name] = [f'cannot be imported: {error!r}']
        continue
    now = watched & {m.split('.')[0] for m in sys.modules}
    brought[name] = sorted(now - before); before = now
print(json.dumps(brought))"""
    watched = ["dagster", "dagster_pipes", "mlflow", *HEAVY]
    command = [sys.executable, "-c", code, json.dumps(names), json.dumps(watched)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, check=True, timeout=300, env=environment, capture_output=True, text=True)
    return json.loads(done.stdout)


def is_torch_free(path: Path, seen: set[Path] | None = None) -> bool:
    """Whether importing a file imports nothing heavy, by itself or through files of this package. seen: files looked at
    already; each is looked at once, since the ways through the package are too many to go them all."""
    seen = set() if seen is None else seen
    seen.add(path)
    names = imports_of(path, at_import=True)
    if roots(names) & set(HEAVY):
        return False
    own = [name.split(".") for name in names if name.startswith("finetune_pipeline.")]
    inner = {PACKAGE.parent.joinpath(*parts).with_suffix(".py") for parts in own}
    return all(is_torch_free(p, seen) for p in sorted(inner) if p.is_file() and p not in seen)


@pytest.fixture(scope="module")
def brought() -> tuple[list[str], dict[str, list[str]]]:
    """(plain modules that import no torch, what they, then Dagster's definitions, then others bring)."""
    names = [module_name(p) for p in modules(*PLAIN) if is_torch_free(p) and str(p.relative_to(PACKAGE)) != ENTRY]
    return names, loaded_by(*names, "finetune_pipeline.definitions", "mlflow.version", "json", "no_such_module")


def test_private_modules_of_dagster_are_used_in_one_file() -> None:
    users = [path for path in modules(*LAYERS) if any(name.startswith("dagster._") for name in imports_of(path))]
    assert [path.name for path in users] == ["dagster_internals.py"]


def test_every_package_has_its_layer() -> None:
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert found - {"__init__"} == set(LAYERS)


def test_imports_point_downwards() -> None:
    wrong = []
    for number, layer in enumerate(LAYERS):
        above = {f"finetune_pipeline.{name}" for name in LAYERS[number + 1 :]}
        for path in modules(layer):
            bad = sorted(n for n in imports_of(path) if ".".join(n.split(".")[:2]) in above)
            wrong += [f"{path.relative_to(PACKAGE)}: {name}" for name in bad]
    assert wrong == []


def test_plain_packages_import_neither_dagster_nor_mlflow() -> None:
    skin = {"dagster", "dagster_pipes", "mlflow"}
    found = {str(p.relative_to(PACKAGE)): roots(imports_of(p)) & skin for p in modules(*PLAIN)}
    assert {path: names for path, names in found.items() if names} == {ENTRY: {"dagster_pipes"}}


def test_importing_a_plain_module_loads_neither_dagster_nor_mlflow_nor_torch(brought) -> None:
    names, found = brought
    assert len(names) > 30 and not {name: found[name] for name in names if found[name]}


def test_what_dagster_loads_brings_no_torch_and_no_mlflow(brought: tuple[list[str], dict[str, list[str]]]) -> None:
    """One interpreter for all: what is looked for is seen where it is."""
    *found, missing = list(brought[1].values())[-4:]
    assert found == [["dagster", "dagster_pipes"], ["mlflow"], []]
    assert missing == ["cannot be imported: ModuleNotFoundError(\"No module named 'no_such_module'\")"]


def test_every_file_beside_the_code_is_part_of_a_wheel() -> None:
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text("utf-8"))
    declared = project["tool"]["setuptools"]["package-data"]
    packed = {path for pattern in declared["finetune_pipeline"] for path in PACKAGE.glob(pattern)}
    there = {p for p in PACKAGE.rglob("*") if p.is_file() and p.suffix != ".py" and p.parent.name != "__pycache__"}
    assert packed - {*PACKAGE.glob("docs/*.md")} == there  # a link to docs/, which rglob does not follow


@cache
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


def test_what_scripts_import_of_the_package_is_there() -> None:
    """Scripts are run by hand, so nothing else would tell that what they import has gone."""
    gone = []
    for path in [p for top in ("benchmarks", "tools") for p in (PACKAGE.parent / top).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("finetune_pipeline"):
                continue
            place = PACKAGE.parent.joinpath(*str(node.module).split("."))
            source = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
            there = defined_in(source) if source.exists() else set()
            names = [alias.name for alias in node.names if alias.name not in there]
            files = [name for name in names if (place / f"{name}.py").exists() or (place / name).is_dir()]
            gone += [f"{path.name}: {node.module}.{name}" for name in names if name not in files]
    assert gone == []
