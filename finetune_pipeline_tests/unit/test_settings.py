import os
from pathlib import Path
from unittest import mock

import pytest

from finetune_pipeline import settings
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.settings import Settings, read_settings, visible_gpus


def read_with(variables: dict[str, str]) -> Settings:
    with mock.patch.dict(os.environ, variables, clear=True):
        return read_settings()


def test_defaults_are_absolute_and_in_the_nearest_folder_with_tasks_or_state(tmp_path, monkeypatch) -> None:
    def project_of(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(folder)
        return read_with({}).project

    for made in ("with_state/.finetune", "with_state/new/data/raw", "foreign/data/photos"):
        (tmp_path / made).mkdir(parents=True)
    assert project_of(tmp_path / "with_state/empty/deep") == tmp_path / "with_state"
    assert project_of(tmp_path / "with_state/new") == tmp_path / "with_state/new", "it has data/ itself"
    assert project_of(tmp_path / "foreign/new") == tmp_path / "foreign/new", "data/ without tasks is anybody's"
    (tmp_path / "data/tickets/raw").mkdir(parents=True)
    (tmp_path / "data/tickets/task.yaml").touch()
    monkeypatch.chdir(tmp_path / "data/tickets/raw")
    found, home = read_with({}), tmp_path / ".finetune"
    assert (found.project, found.home, found.data_root) == (tmp_path, home, tmp_path / "data")
    assert found.artifacts == home / "artifacts"
    assert found.tracking_uri == f"sqlite:///{home}/mlflow/mlflow.db"


def test_a_working_folder_that_was_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(OutsideError, match="working folder was deleted"):
        read_with({})


def test_variables_move_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = {"FINETUNE_HOME": "here", "FINETUNE_DATA": "/d", "FINETUNE_DEVICES": "cuda:0, cuda:1,cuda:0"}
    found = read_with(said | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"})
    assert (found.data_root, found.home) == (Path("/d"), tmp_path / "here")
    assert (found.tracking_uri, found.devices) == ("http://127.0.0.1:5000", ("cuda:0", "cuda:1"))


def test_a_relative_database_is_one_of_the_project_and_a_file_store_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / ".finetune").mkdir()
    (tmp_path / "notes").mkdir()
    monkeypatch.chdir(tmp_path / "notes")
    for address, meant in (
        ("sqlite:///runs/m.db", f"sqlite:///{tmp_path}/runs/m.db"),
        ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
        ("sqlite:////abs/m.db?timeout=5", "sqlite:////abs/m.db?timeout=5"),
        ("postgresql://host/db", "postgresql://host/db"),
    ):
        assert read_with({"MLFLOW_TRACKING_URI": address}).tracking_uri == meant
    for address in ("./mlruns", "file:///tmp/mlruns"):
        with pytest.raises(OutsideError, match="MLFLOW_TRACKING_URI"):
            read_with({"MLFLOW_TRACKING_URI": address})


def test_wrong_variables_and_those_of_earlier_versions_are_refused() -> None:
    for wrong, said in (
        ({"FINETUNE_DEVICES": "gpu,cuda:0,cuda:x,cuda:²"}, "'gpu', 'cuda:x', 'cuda:²'"),
        ({"FINETUNE_DEVICES": "cuda:0+cuda:1,cpu"}, r"'cuda:0\+cuda:1' is no device.* set training.trainer: ray"),
        ({"FINETUNE_PARALLEL": "ddp"}, "FINETUNE_PARALLEL(?s:.)*set training.trainer: ray"),
        ({"FINETUNE_HOME": "/what?/home"}, "cannot hold"),
        ({"FINETUNE_HOME": "/p%20x/home"}, "cannot hold"),
        ({"MLFLOW_TRACKING_URI": "sqlite:////what?/m.db"}, "cannot hold (?s:.)*correct MLFLOW_TRACKING_URI"),
        ({"MLFLOW_TRACKING_URI": "sqlite:////p%20x/m.db"}, "cannot hold"),
        ({"FINETUNE_HOME": '/it\'s "mine"/home'}, "both quotes"),
        ({"FINETUNE_HOME": "~nobody-of-this-name/x"}, "FINETUNE_HOME='~nobody-of-this-name/x'"),
    ):
        with pytest.raises(OutsideError, match=said):
            read_with(wrong)


def test_gpus_are_used_without_a_variable_where_torch_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert visible_gpus({}, tmp_path, "2.13.0+cu130") == ("cuda:0", "cuda:1")
    assert visible_gpus({}, tmp_path, "2.13.0+cpu") == visible_gpus({}, tmp_path, "") == ()
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "1"}, tmp_path, "2.13.0") == ("cuda:0",), "the first of those shown"
    uuids = {"CUDA_VISIBLE_DEVICES": "GPU-5ad1, MIG-77f0"}
    assert visible_gpus(uuids, tmp_path, "2.13.0") == ("cuda:0", "cuda:1")
    for none in ("", "-1", "-1,0", "NoDevFiles"):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": none}, tmp_path, "2.13.0") == (), none
    assert visible_gpus({}, tmp_path / "none", "2.13.0") == ()
    monkeypatch.setattr(settings, "visible_gpus", lambda *_: ("cuda:0",))
    assert read_with({}).devices == ("cuda:0",)
    assert read_with({"FINETUNE_DEVICES": "cpu"}).devices == ("cpu",)
