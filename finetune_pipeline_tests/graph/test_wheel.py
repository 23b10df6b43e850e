"""An installed wheel works in any folder: one made the end of `finished`, without a variable, in a folder with nothing else.

`finetune ui` of the wheel is in end_to_end/test_ui.py.
"""

import subprocess
from pathlib import Path

from finetune_pipeline_tests import wheel
from finetune_pipeline_tests.graph.project import Finished


def test_the_wheel_runs_from_its_own_files_and_writes_none_there(finished: Finished) -> None:
    environment = finished[0].root.parent / "wheel" / "environment"
    (package,) = environment.glob("lib/python*/site-packages/finetune_pipeline")
    python = [str(environment / "bin/python"), "-c", "import finetune_pipeline; print(finetune_pipeline.__file__)"]
    shown = subprocess.run(
        python, cwd=finished[0].root, env=wheel.ENVIRONMENT, text=True, capture_output=True, check=True
    )
    assert shown.stdout.strip() == str(package / "__init__.py")
    (record,) = package.parent.glob("finetune_pipeline-*.dist-info/RECORD")
    installed = {line.split(",")[0] for line in record.read_text().splitlines()}
    there = {str(p.relative_to(package.parent)) for p in package.rglob("*") if p.is_file()}
    assert {name for name in there if "__pycache__" not in name} <= installed


def test_the_state_of_a_project_is_in_its_folder(finished: Finished) -> None:
    root, steps = finished[0].root, finished[2]["steps"]
    assert {p.name for p in root.iterdir() if not p.suffix} == {".finetune", "base", "data"}
    for made in ("artifacts", "mlflow/mlflow.db", "dagster/history", "dagster/dagster.yaml"):
        assert (root / ".finetune" / made).exists()
    assert all(Path(step["folder"]).is_relative_to(root / ".finetune/artifacts") for step in steps.values())
