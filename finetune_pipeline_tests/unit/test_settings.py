from __future__ import annotations

from pathlib import Path

import pytest

import finetune_pipeline
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.settings import read_settings


def test_defaults_are_absolute_and_beside_the_package() -> None:
    project = Path(finetune_pipeline.__file__).resolve().parents[1]
    found = read_settings({})
    assert found.project == project
    assert found.home == project / ".finetune"
    assert found.data_root == project / "data"
    assert found.artifacts == project / ".finetune" / "artifacts"
    assert found.tracking_uri == f"sqlite:///{project}/.finetune/mlflow/mlflow.db"
    assert found.artifact_location == project / ".finetune" / "mlflow" / "artifacts"
    assert found.devices == ("cpu",)


def test_variables_move_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_settings(
        {
            "FINETUNE_PROJECT": "/p",
            "FINETUNE_HOME": "here",
            "FINETUNE_DATA": "/d",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "FINETUNE_DEVICES": "cuda:0, cuda:1,cuda:0",
        }
    )
    assert (found.project, found.data_root) == (Path("/p"), Path("/d"))
    assert found.home == tmp_path / "here"
    assert found.tracking_uri == "http://127.0.0.1:5000"
    assert found.devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ("sqlite:///runs/m.db", "sqlite:////p/runs/m.db"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite:////abs/m.db?timeout=5", "sqlite:////abs/m.db?timeout=5"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_tracking_address_does_not_depend_on_the_working_folder(told: str, meant: str) -> None:
    assert read_settings({"FINETUNE_PROJECT": "/p", "MLFLOW_TRACKING_URI": told}).tracking_uri == meant


@pytest.mark.parametrize("told", ["./mlruns", "file:///tmp/mlruns"])
def test_a_file_store_is_refused(told: str) -> None:
    with pytest.raises(OutsideError, match="MLFLOW_TRACKING_URI"):
        read_settings({"MLFLOW_TRACKING_URI": told})


def test_all_wrong_devices_are_named() -> None:
    with pytest.raises(OutsideError, match="'gpu', 'cuda:x'"):
        read_settings({"FINETUNE_DEVICES": "gpu,cuda:0,cuda:x"})


def test_devices_that_share_a_training() -> None:
    assert read_settings({"FINETUNE_DEVICES": "cuda:0 + cuda:1, cuda:2"}).devices == ("cuda:0+cuda:1", "cuda:2")
    assert read_settings({"FINETUNE_DEVICES": "cpu+cpu"}).devices == ("cpu+cpu",)
    for wrong in ("cuda:0+cuda:0", "cpu+cuda:0"):
        with pytest.raises(OutsideError, match="cannot share a training"):
            read_settings({"FINETUNE_DEVICES": wrong})
    assert read_settings({}).parallel == "auto"
    assert read_settings({"FINETUNE_PARALLEL": "fsdp2"}).parallel == "fsdp2"
    with pytest.raises(OutsideError, match="write ddp, fsdp2, or auto"):
        read_settings({"FINETUNE_PARALLEL": "zero3"})
