"""``finetune doctor``: what this machine is, and which device is unusable."""

import json
import sys

import pytest
import torch

from finetune_pipeline.cli.main import main
from finetune_pipeline.models.hardware import cpu_has_bfloat16


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
    said, real = (version.partition("+")[0] for version in (machine["versions"]["torch"], torch.__version__))
    assert said == real and machine["disk_free_bytes"] > 0
    assert machine["memory_bytes"] == cpu["memory_bytes"]
