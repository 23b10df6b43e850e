"""Mutation testing: which changes of the code does no test notice?

    python tools/mutate.py AREA [--out benchmarks/results/DATE-mutants-AREA.txt] [--only log_merging,…] [--every 1]

AREA is a package or module below `finetune_pipeline`, such as `production` or `evaluation/gates`. A mutant changes one
comparison, `and` or `or`, `not`, arithmetic operator, number or truth value. First all tests of the area run once while the
lines that each test executes are recorded. Then each mutant is tried with the tests that execute its line, fastest first, in a
fork in which the changed module replaces the real one; a line that no single test executes (a constant of a module, code that
runs in a child process) takes all tests. Surviving mutants are listed: each is a gap in the tests, or equivalent to the original.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PACKAGE, TESTS = "finetune_pipeline", "finetune_pipeline_tests"
MORE_TESTS = {
    "evaluation": ["unit/baseline/test_advice.py"],
    "planning": [
        "unit/spec/test_training_rules.py",
        "unit/trainers/test_local.py",
        "unit/training/test_rehearsal.py",
        "unit/cli/test_try.py",
    ],
    "production": [
        "unit/steps/test_logged_teacher.py",
        "unit/steps/test_production.py",
        "graph/test_automation.py",
    ],
    "steps": ["unit/production"],
    "tracking": ["unit/cli/test_rollback.py", "graph/test_automation.py"],
}
"""Tests of a package besides those in its own folder below `unit/`."""
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
TIMEOUT_SECONDS = 240


def list_mutants(tree: ast.Module) -> Iterator[tuple[int, int, int, str]]:
    """(number of the node, number of its operator, line, description) of every mutant of a module."""
    # arguments of decorators and of classes (frozen, slots, the order and documentation of gates) decide nothing, and
    # zip(strict=…) only guards lists that are equally long
    ignored: list[ast.AST] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            ignored += node.decorator_list
            ignored += getattr(node, "keywords", [])
        elif isinstance(node, ast.keyword) and node.arg == "strict":
            ignored.append(node.value)
    ignored_nodes = {id(node) for part in ignored for node in ast.walk(part)}
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in ignored_nodes:
            continue
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                if type(op) in SWAPS:
                    swapped = SWAPS[type(op)].__name__
                    yield number, i, line, f"{type(op).__name__} for {swapped} in {ast.unparse(node)}"
        elif isinstance(node, ast.BoolOp):
            yield number, 0, line, f"{type(node.op).__name__} swapped in {ast.unparse(node)[:90]}"
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not is_text(node):
            yield number, 0, line, f"{type(node.op).__name__} swapped in {ast.unparse(node)}"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield number, 0, line, f"not dropped in {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield number, 0, line, f"{node.value} negated"
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield number, 0, line, f"{node.value} doubled, plus one"


def is_text(node: ast.AST) -> bool:
    return any(
        isinstance(n, ast.JoinedStr) or (isinstance(n, ast.Constant) and isinstance(n.value, str))
        for n in ast.walk(node)
    )


def mutated(source: str, number: int, which: int) -> ast.Module:
    """Parse the module and apply one mutant of :func:`list_mutants`."""
    tree = ast.parse(source)
    node: Any = list(ast.walk(tree))[number]
    if isinstance(node, ast.Compare):
        node.ops[which] = SWAPS[type(node.ops[which])]()
    elif isinstance(node, (ast.BoolOp, ast.BinOp)):
        node.op = SWAPS[type(node.op)]()
    elif isinstance(node, ast.UnaryOp):
        node.op = ast.UAdd()
        node.operand = ast.Call(ast.Name("bool", ast.Load()), [node.operand], [])
    elif isinstance(node.value, bool):
        node.value = not node.value
    else:
        node.value = 2 * node.value + 1  # a limit raised by one is hardly another limit
    return ast.fix_missing_locations(tree)


class TreeLoader(importlib.machinery.SourceFileLoader):
    """Loads a syntax tree in place of a module's file."""

    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(self.tree, self.path, "exec")


class MutantFinder:
    """Finds the changed module before the real one."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.name:
            return None
        loader = TreeLoader(name, str(self.path))
        loader.tree = self.tree
        inside = [str(self.path.parent)] if self.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.path, loader=loader, submodule_search_locations=inside)


Lines = dict[str, set[int]]
"""Lines of each file of the area."""


class LineRecorder:
    """Pytest plugin: records which lines of the area each test executes, its fixtures included, and for how long it runs."""

    def __init__(self, files: set[str]) -> None:
        self.files = files
        self.lines_of_test: dict[str, Lines] = {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Iterator[None]:
        lines = self.lines_of_test.setdefault(item.nodeid, {})

        def trace_line(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                lines.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
            return trace_line

        def trace_call(frame: FrameType, event: str, argument: Any) -> Any:
            return trace_line if frame.f_code.co_filename in self.files else None

        began = time.monotonic()
        sys.settrace(trace_call)
        try:
            return (yield)
        finally:
            sys.settrace(None)
            self.seconds[item.nodeid] = time.monotonic() - began


def in_fork(work: Callable[[], bool]) -> bool:
    """Run the work in a silent fork of this process. Returns its result; False if it dies or takes too long."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(TIMEOUT_SECONDS)
        code = 1
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def run_tests(tests: Sequence[str], *plugins: Any) -> bool:
    arguments = [*tests, "-x", "-q", "-n", "0", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    return int(pytest.main(arguments, plugins=list(plugins))) == 0


def record_lines(modules: Sequence[Path], tests: Sequence[str]) -> dict[str, Lines]:
    """The lines of these modules that each test executes, fastest tests first. Ends the program if a test fails.

    The libraries that the tests import are imported here too, so that no fork imports them again.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.json"

        def work() -> bool:
            signal.alarm(0)  # tracing makes tests slow
            recorder = LineRecorder({str(m) for m in modules})
            passed = run_tests(tests, recorder)
            fastest = sorted(recorder.lines_of_test, key=lambda test: recorder.seconds.get(test, 0.0))
            lines = {t: {f: sorted(n) for f, n in recorder.lines_of_test[t].items()} for t in fastest}
            out.write_text(json.dumps([lines, libraries()]), "utf-8")
            return passed

        if not in_fork(work):
            sys.exit(f"the tests fail without any change; run: pytest -n 0 {' '.join(tests)}")
        recorded, imported = json.loads(out.read_text("utf-8"))
    for name in imported:
        with contextlib.suppress(Exception):  # some modules can be imported only from within their package
            importlib.import_module(name)
    return {test: {file: set(lines) for file, lines in by_file.items()} for test, by_file in recorded.items()}


def libraries() -> list[str]:
    """The imported modules that are not of this project."""
    files = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
    installed = (str(Path(sys.prefix)), str(Path(sys.base_prefix) / "lib"))
    return sorted(name for name, file in files.items() if file and file.startswith(installed))


def survives(module: Path, tree: ast.Module, tests: Sequence[str]) -> bool:
    """Whether all tests pass with the changed module."""
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")

    def work() -> bool:
        sys.meta_path.insert(0, MutantFinder(name, module, tree))
        importlib.import_module(name)  # before pytest's own finder, which takes files named *_test.py
        return run_tests(tests)

    return in_fork(work)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("area")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="modules of the area by file name, separated by commas")
    parser.add_argument("--every", type=int, default=1, help="try only every n-th mutant")
    arguments = parser.parse_args()
    area = ROOT / PACKAGE / arguments.area.strip("/")
    modules = sorted(area.rglob("*.py")) if area.is_dir() else [area.with_suffix(".py")]
    if arguments.only:
        modules = [m for m in modules if m.stem in arguments.only.split(",")]
    if not modules or not all(m.exists() for m in modules):
        parser.error(f"no modules in {area}")
    top = Path(arguments.area).parts[0]
    os.chdir(ROOT)
    tests = [f"{TESTS}/{of}" for of in (f"unit/{top}", *MORE_TESTS.get(top, [])) if (ROOT / TESTS / of).exists()]
    began = time.monotonic()
    lines_of_test = record_lines(modules, tests)
    report, tried, surviving = list[str](), 0, 0
    for module in modules:
        source = module.read_text("utf-8")
        mutants = list(list_mutants(ast.parse(source)))[:: arguments.every]
        survivors = []
        for number, which, line, description in mutants:
            at_line = [t for t, lines in lines_of_test.items() if line in lines.get(str(module), ())]
            if survives(module, mutated(source, number, which), at_line or tests):
                survivors.append(f"line {line}: {description}")
                print(f"{module.stem}: survives: {survivors[-1]}", flush=True)
        tried, surviving = tried + len(mutants), surviving + len(survivors)
        if mutants:
            report.append(f"{module.stem}: {len(mutants) - len(survivors)} of {len(mutants)} mutants detected")
            print(report[-1], flush=True)
            report += [f"  survives: {survivor}" for survivor in survivors]
    share = f"{tried - surviving} of {tried} detected by the tests ({(tried - surviving) / max(tried, 1):.0%})"
    head = f"Mutants of {arguments.area}, {datetime.now(UTC).date()}, every {arguments.every}: {share}."
    text = "\n".join([head, "", *report, "", f"{time.monotonic() - began:.0f} s"]) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
