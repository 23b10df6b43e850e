"""Mutation testing of the deciding code (gates, rivals, advice, learnable).

    python tools/mutate_gates.py [--out benchmarks/results/DATE-gate-mutants.txt] [--only evaluation.gates.judge,…] [--every 1]

A mutant changes one comparison, `and` or `or`, `not`, arithmetic operator, number or truth value. The tests run in a fork of
this process, in which the changed module replaces the real one. Evaluations do not depend on the gates, so they are computed
once and shared by all forks. Surviving mutants are listed: each is a gap in the tests, or equivalent to the original.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.machinery
import importlib.util
import os
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PACKAGE, TESTS = "finetune_pipeline", "finetune_pipeline_tests/unit"
GATES = ROOT / PACKAGE / "evaluation" / "gates"
WITH_MORE_TESTS = ("beats_baseline_on_parts", "judge", "general_ability", "human_review")
TARGETS = {
    **{
        f"evaluation.gates.{path.stem}": ["evaluation/test_gates.py"]
        + ["evaluation/test_gates_besides_task.py"] * (path.stem in WITH_MORE_TESTS)
        + ["evaluation/test_production_rows.py"] * (path.stem == "recent_production")
        for path in sorted(GATES.glob("[a-z]*.py"))
    },
    "evaluation.gates": ["evaluation/test_gates.py"],
    "evaluation.statistics.proportions": [
        f"evaluation/statistics/test_{of}.py" for of in ("proportions", "resampling")
    ],
    "evaluation.robustness": ["evaluation/test_robustness.py"],
    "evaluation.deciding": [
        "evaluation/test_deciding.py",
        "evaluation/test_gates_besides_task.py",
        "evaluation/test_gates.py",
    ],
    "evaluation.rivals": ["evaluation/test_rivals.py", "evaluation/test_gates.py", "baseline/test_advice.py"],
    "baseline.worth": ["baseline/test_worth.py"],
    "baseline.input_evidence": ["baseline/test_learnable.py"],
    "baseline.learnable": ["baseline/test_learnable.py"],
    "baseline.advice": ["baseline/test_advice.py"],
    "baseline.advice_sentences": ["baseline/test_advice.py"],
    "steps.release": ["steps/test_release.py"],
}
"""Modules and the tests that must detect a mutant."""
EVALUATED_AGAIN = ("evaluation.robustness", "evaluation.deciding", "evaluation.rivals")
"""Modules whose mutants change evaluations, which are then computed again."""
RELOADED = ("evaluation.", "baseline.", "planning.", "steps.release")
"""Packages that are imported again for a mutant, so that all of them use it."""
SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.And: ast.Or, ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
}  # fmt: skip
TIMEOUT_SECONDS = 240


def path_of(target: str) -> Path:
    """The file of a module or package."""
    path = ROOT / PACKAGE / target.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def list_mutants(tree: ast.Module) -> Iterator[tuple[int, int, str]]:
    """(number of the node, number of its operator, description) of every mutant of a module."""
    # arguments of decorators (frozen, slots, the order and documentation of gates) decide nothing
    in_decorators = {
        id(node)
        for definition in ast.walk(tree)
        if isinstance(definition, ast.ClassDef | ast.FunctionDef)
        for decorator in definition.decorator_list
        for node in ast.walk(decorator)
    }
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in in_decorators:
            continue
        line = f"line {getattr(node, 'lineno', '?')}"
        if isinstance(node, ast.Compare):
            for i, op in enumerate(node.ops):
                if type(op) in SWAPS:
                    yield (
                        number,
                        i,
                        f"{line}: {type(op).__name__} for {SWAPS[type(op)].__name__} in {ast.unparse(node)}",
                    )
        elif isinstance(node, ast.BoolOp):
            yield number, 0, f"{line}: {type(node.op).__name__} swapped in {ast.unparse(node)[:90]}"
        elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS and not is_text(node):
            yield number, 0, f"{line}: {type(node.op).__name__} swapped in {ast.unparse(node)}"
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield number, 0, f"{line}: not dropped in {ast.unparse(node)}"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield number, 0, f"{line}: {node.value} negated"
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield number, 0, f"{line}: {node.value} raised by one"


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
        node.value += 1
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


def cache_evaluations() -> None:
    """Cache the tests' evaluations, which depend on predictions and not on gates."""
    fake = importlib.import_module("finetune_pipeline_tests.unit.evaluation.fake_run")
    real, cache = fake.evaluate_task, {}

    def evaluate(**arguments: Any) -> Any:
        key = pickle.dumps(arguments)
        if key not in cache:
            cache[key] = real(**arguments)
        return copy.deepcopy(cache[key])

    fake.evaluate_task = evaluate


def run_tests(files: list[str]) -> int:
    import pytest

    return int(pytest.main([*(str(ROOT / TESTS / f) for f in files), "-x", "-q", "-n", "0", "-p", "no:cacheprovider"]))


def survives(target: str, tree: ast.Module) -> bool:
    """Whether all tests pass with the changed module."""
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        signal.alarm(TIMEOUT_SECONDS)
        code = 1
        try:
            removed = [".test_", *([".fake_run"] if target in EVALUATED_AGAIN else [])]
            for name in list(sys.modules):
                inner = name.removeprefix(f"{PACKAGE}.")
                if inner.startswith(RELOADED) or any(part in name for part in removed):
                    del sys.modules[name]
            sys.meta_path.insert(0, MutantFinder(f"{PACKAGE}.{target}", path_of(target), tree))
            importlib.import_module(
                f"{PACKAGE}.{target}"
            )  # before pytest's own finder, which takes files named *_test.py
            code = 0 if run_tests(TARGETS[target]) == 0 else 1
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", help="modules, separated by commas")
    parser.add_argument("--every", type=int, default=1, help="try only every n-th mutant")
    arguments = parser.parse_args()
    targets = arguments.only.split(",") if arguments.only else list(TARGETS)
    if unknown := set(targets) - set(TARGETS):
        parser.error(f"unknown modules: {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    cache_evaluations()
    if run_tests(sorted({f for files in TARGETS.values() for f in files})) != 0:
        print("the tests fail without any change")
        return 1
    lines, began, tried, surviving = [], time.monotonic(), 0, 0
    for target in targets:
        source = path_of(target).read_text("utf-8")
        mutants = list(list_mutants(ast.parse(source)))[:: arguments.every]
        survivors = []
        for number, which, description in mutants:
            if survives(target, mutated(source, number, which)):
                survivors.append(description)
                print(f"{target}: survives: {description}", flush=True)
        tried, surviving = tried + len(mutants), surviving + len(survivors)
        lines += [
            f"{target}: {len(mutants) - len(survivors)} of {len(mutants)} mutants detected",
            *(f"  survives: {description}" for description in survivors),
        ]
        print(lines[-1 - len(survivors)], flush=True)
    head = f"Mutants of the code that decides, {datetime.now(UTC).date()}: {tried - surviving} of {tried} detected by the tests."
    text = "\n".join([head, "", *lines, "", f"{time.monotonic() - began:.0f} s"]) + "\n"
    print(text)
    if arguments.out:
        arguments.out.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
