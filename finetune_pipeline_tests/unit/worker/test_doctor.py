"""``finetune doctor``: what this machine is, and which device is unusable."""

import json
import sys
from pathlib import Path

import pytest
import torch

from finetune_pipeline.cli.main import main
from finetune_pipeline.models.hardware import cpu_has_bfloat16, nvidia_cards
from finetune_pipeline.worker.doctor import Device, unused_gpu


def test_the_command_looks_at_each_device_in_a_child_and_says_which_is_unusable(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("FINETUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FINETUNE_DEVICES", "cpu,cuda:99")
    monkeypatch.setattr(sys, "argv", ["finetune", "doctor", "--json"])
    with pytest.raises(SystemExit) as end:
        main()
    machine = json.loads(capfd.readouterr().out)
    cpu, gpu = machine["devices"]
    assert end.value.code == 2 and not machine["right"]
    assert not cpu["problem"] and cpu["precision"] == ("bfloat16" if cpu_has_bfloat16() else "float32")
    assert gpu["problem"].startswith("torch sees no such GPU") and "cuda:99: unusable" in machine["runs"][1]
    assert machine["versions"]["torch"] == torch.__version__ and machine["disk_free_bytes"] > 0
    assert machine["memory_bytes"] == cpu["memory_bytes"]
    assert (cpu["torch"], cpu["cuda"]) == (torch.__version__, torch.version.cuda or "")


def test_a_gpu_that_torch_cannot_see_is_named_with_what_mends_it() -> None:
    def cpu(cuda: str) -> Device:
        return Device("cpu", "a processor", 1, True, "float32", "", torch="2.9.0", cuda=cuda)

    assert unused_gpu(cpu(""), driver=False, cards=0) == ""
    assert "start it with `--gpus all`" in unused_gpu(cpu("12.8"), driver=False, cards=1)
    without_cuda = unused_gpu(cpu(""), driver=True, cards=1)
    assert "torch 2.9.0 is built without CUDA" in without_cuda and f"{sys.executable} -m pip uninstall" in without_cuda
    assert "Unset both" in unused_gpu(cpu("12.8"), driver=True, cards=0)


def test_gpus_are_counted_on_the_bus_without_a_driver(tmp_path: Path) -> None:
    for name, vendor, kind in (("0", "0x10de", "0x030200"), ("1", "0x10de", "0x040300"), ("2", "0x8086", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "3").mkdir()
    assert nvidia_cards(tmp_path) == 1, "an NVIDIA GPU's sound and Intel's graphics are none"
    assert nvidia_cards(tmp_path / "no bus") == 0
