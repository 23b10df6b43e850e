"""The installed wheel, with which `finished` was made: it works in any folder and needs no environment variables.

end_to_end/test_ui.py tests the wheel's `finetune ui`.
"""

import subprocess
from pathlib import Path

from finetune_pipeline_tests import wheel
from finetune_pipeline_tests.graph.project import Finished


def test_the_wheel_runs_from_its_own_files_and_writes_none_there(finished: Finished) -> None:
    environment = finished.project.root.parent / "wheel" / "environment"
    (package,) = environment.glob("lib/python*/site-packages/finetune_pipeline")
    command = [str(environment / "bin/python"), "-c", "import finetune_pipeline; print(finetune_pipeline.__file__)"]
    imported_from = subprocess.check_output(command, cwd=finished.project.root, env=wheel.ENVIRONMENT, text=True)
    assert imported_from.strip() == str(package / "__init__.py")
    (record,) = package.parent.glob("finetune_pipeline-*.dist-info/RECORD")
    installed = {line.split(",")[0] for line in record.read_text().splitlines()}
    present = {str(path.relative_to(package.parent)) for path in package.rglob("*") if path.is_file()}
    assert {name for name in present if "__pycache__" not in name} <= installed


def test_the_state_of_a_project_is_in_its_folder(finished: Finished) -> None:
    root, steps = finished.project.root, finished.output["steps"]
    assert {p.name for p in root.iterdir() if not p.suffix} == {".finetune", "base", "data"}
    for name in ("artifacts", "mlflow/mlflow.db", "dagster/history", "dagster/dagster.yaml"):
        assert (root / ".finetune" / name).exists()
    assert all(Path(step["folder"]).is_relative_to(root / ".finetune/artifacts") for step in steps.values())
