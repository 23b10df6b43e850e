"""The Python API in the real graph: the notebook in examples/ is run as a reader would run it."""

import ast
import json
import os
from pathlib import Path
from typing import Any

import pytest

import finetune_pipeline.api as finetune
from finetune_pipeline_tests import warm_workers
from finetune_pipeline_tests.shared import Shared
from finetune_pipeline_tests.tiny_model import make_tiny_model

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "python_api.ipynb"


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the API and the notebook set is put back."""
    Shared.get()  # sets a variable that must remain
    for name, value in (warm_workers.start() | {"TMPDIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in os.environ.keys() | {"FINETUNE_DATA", "FINETUNE_HOME", "MLFLOW_TRACKING_URI", "DAGSTER_HOME"}:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    for name in ("FINETUNE_DATA", "FINETUNE_HOME", "MLFLOW_TRACKING_URI", "DAGSTER_HOME"):
        monkeypatch.delenv(name)


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


def test_the_notebook_runs_and_its_champion_answers(
    environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BASE_MODEL", str(make_tiny_model(tmp_path / "base")))
    names = run_notebook(NOTEBOOK)
    result, report = names["result"], names["report"]
    assert names["checked"].stops == [] and names["checked"].simple.value > 0.95
    assert (result.refused, result.failed, result.worked) == ([], [], True)
    assert names["out"][-1] == ("tickets:1", ["delivery", "billing"])
    assert report.is_current and report.page.is_file() and report.decision == result.decision
    assert report.verdict in capsys.readouterr().out
    assert finetune.run("tickets").worked is False, "by name; nothing is made twice"
    assert finetune.predict("tickets", ["the invoice of the parcel of the invoice"]) == ["billing"]


def test_what_is_missing_is_a_value_error_that_says_what_to_do(
    environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    with pytest.raises(ValueError, match="there is no task 'nobody'(.|\n)*fix: correct the name"):
        finetune.load_task("nobody")
    folder = tmp_path / "data" / "broken"
    folder.mkdir(parents=True)
    (folder / "task.yaml").write_text("name: broken\noutputs: {}\n")
    with pytest.raises(ValueError, match="task.yaml cannot be used:(.|\n)*outputs"):
        finetune.run("broken")
    assert finetune.list_tasks() == {"broken": folder}
