"""The Python API in the real graph: the notebook in examples/ is run as a reader would run it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import finetune_pipeline.api as finetune
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.tiny_model import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples" / "python_api.ipynb"


def run_notebook(path: Path) -> dict[str, Any]:
    """Run the code cells in order in one namespace. Returns its names, and the value of each cell's last line as `out`."""
    names: dict[str, Any] = {}
    values = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, str(path), "exec"), names)
            if last is not None:
                values.append(eval(compile(ast.Expression(last.value), str(path), "eval"), names))
    return {**names, "out": values}


def main() -> None:
    """What a reader does, in a process of its own: a run writes to standard output and starts others."""
    names = run_notebook(NOTEBOOK)
    result, report = names["result"], names["report"]
    told = {
        "stops": names["checked"].stops,
        "simple": names["checked"].simple.value,
        "run": [result.refused, result.failed, result.worked],
        "last": names["out"][-1],
        "report": [report.is_current, report.page.is_file(), report.decision == result.decision, report.verdict],
        "again": finetune.run("tickets").worked,
        "answer": finetune.predict("tickets", ["the invoice of the parcel of the invoice"]),
    }
    Path(sys.argv[1]).write_text(json.dumps(told))


def missing() -> None:
    with pytest.raises(ValueError, match="there is no task 'nobody'(.|\n)*fix: correct the name"):
        finetune.load_task("nobody")
    folder = Path(os.environ["FINETUNE_DATA"]) / "broken"
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text("name: broken\noutputs: {}\n")
    with pytest.raises(ValueError, match="task.yaml cannot be used:(.|\n)*outputs"):
        finetune.run("broken")
    assert finetune.list_tasks() == {"broken": folder}


def in_a_process(name: str, *arguments: str, **more: str) -> str:
    """Run a function of this module. Returns its standard output."""
    unset = ("FINETUNE_DATA", "FINETUNE_HOME", "MLFLOW_TRACKING_URI", "DAGSTER_HOME")
    environment = {key: value for key, value in os.environ.items() if key not in unset} | warm_workers.start() | more
    code = f"from finetune_pipeline_tests.graph.test_api import {name}; {name}()"
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_notebook_runs_and_its_champion_answers(tmp_path: Path) -> None:
    base, told = make_tiny_model(tmp_path / "base"), tmp_path / "told.json"
    output = in_a_process("main", str(told), BASE_MODEL=str(base), TMPDIR=str(tmp_path))
    result = json.loads(told.read_text())
    assert result["stops"] == [] and result["simple"] > 0.95
    assert result["run"] == [[], [], True]
    assert result["last"] == ["tickets:1", ["delivery", "billing"]]
    assert result["report"][:3] == [True] * 3 and result["report"][3] in output
    assert result["again"] is False, "by name; nothing is made twice"
    assert result["answer"] == ["billing"]


def test_what_is_missing_is_a_value_error_that_says_what_to_do(tmp_path: Path) -> None:
    in_a_process("missing", FINETUNE_DATA=str(tmp_path / "data"), FINETUNE_HOME=str(tmp_path / "home"))
