from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline import settings
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.settings import project_root, read_settings, visible_gpus


def test_defaults_are_absolute_and_in_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data/tickets/raw").mkdir(parents=True)
    (tmp_path / "data/tickets/task.yaml").touch()
    monkeypatch.chdir(tmp_path / "data/tickets/raw")
    found = read_settings({})
    assert found.project == tmp_path
    assert found.home == tmp_path / ".finetune"
    assert found.data_root == tmp_path / "data"
    assert found.artifacts == tmp_path / ".finetune" / "artifacts"
    assert found.tracking_uri == f"sqlite:///{tmp_path}/.finetune/mlflow/mlflow.db"
    assert found.artifact_location == tmp_path / ".finetune" / "mlflow" / "artifacts"


def test_the_project_is_the_nearest_folder_with_tasks_or_state_or_else_the_present_one(tmp_path: Path) -> None:
    for made in ("with_state/.finetune", "with_state/new/data/raw", "foreign/data/photos", "foreign/new"):
        (tmp_path / made).mkdir(parents=True)
    assert project_root(tmp_path / "with_state/empty/deep") == tmp_path / "with_state"
    assert project_root(tmp_path / "with_state/new") == tmp_path / "with_state/new", "it has data/ itself"
    assert project_root(tmp_path / "foreign/new") == tmp_path / "foreign/new", "data/ without tasks is anybody's"


def test_a_working_folder_that_was_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutsideError, match="working folder was deleted"):
        read_settings({})


def test_variables_move_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_settings(
        {
            "FINETUNE_HOME": "here",
            "FINETUNE_DATA": "/d",
            "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
            "FINETUNE_DEVICES": "cuda:0, cuda:1,cuda:0",
        }
    )
    assert found.data_root == Path("/d")
    assert found.home == tmp_path / "here"
    assert found.tracking_uri == "http://127.0.0.1:5000"
    assert found.devices == ("cuda:0", "cuda:1")


@pytest.mark.parametrize(
    ("address", "meant"),
    [
        ("sqlite:///runs/m.db", "sqlite:///{project}/runs/m.db"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite:////abs/m.db?timeout=5", "sqlite:////abs/m.db?timeout=5"),
        ("postgresql://host/db", "postgresql://host/db"),
    ],
)
def test_a_relative_database_is_one_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, meant: str
) -> None:
    (tmp_path / ".finetune").mkdir()
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    assert read_settings({"MLFLOW_TRACKING_URI": address}).tracking_uri == meant.format(project=tmp_path)


@pytest.mark.parametrize("address", ["./mlruns", "file:///tmp/mlruns"])
def test_a_file_store_is_refused(address: str) -> None:
    with pytest.raises(OutsideError, match="MLFLOW_TRACKING_URI"):
        read_settings({"MLFLOW_TRACKING_URI": address})


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


def test_gpus_are_used_without_a_variable_where_torch_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path, "2.13.0+cu130") == ("cuda:0", "cuda:1")
    assert visible_gpus({}, tmp_path, "2.13.0+cpu") == visible_gpus({}, tmp_path, "") == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path, "2.13.0") == ("cuda:0",), "the first of those shown"
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path, "2.13.0") == ()
    assert visible_gpus({}, tmp_path / "none", "2.13.0") == ()
    monkeypatch.setattr(settings, "visible_gpus", lambda *_: ("cuda:0",))
    assert read_settings({}).devices == ("cuda:0",)
    assert read_settings({"FINETUNE_DEVICES": "cpu"}).devices == ("cpu",)
