"""``finetune doctor``: the kernels of this CPU are right, and one that is not is named."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import pytest
import torch

from finetune_pipeline.cli.main import main
from finetune_pipeline.models import merging
from finetune_pipeline.models.hardware import cpu_has_bfloat16
from finetune_pipeline.training import attention
from finetune_pipeline.training.prefix_tree import Layout
from finetune_pipeline.worker.doctor import examine
from finetune_pipeline.worker.kernels import checked


def wrong_attention(*inputs: Any, **more: Any) -> Any:
    """Rows see each other, as if the packed sequence were one row."""
    unsegmented = Layout([inputs[1].shape[2]], [-1])
    return right_attention(*inputs, **{**more, "shared_prefix": unsegmented})


def wrong_adapter(folder: Path) -> Any:
    """The scale of the adapter is lost."""
    return dataclasses.replace(right_adapter(folder), scaling=1.0)


def wrong_quantization(weight: torch.Tensor, **more: Any) -> Any:
    """The scale of each block is a fifth too large."""
    return right_quantization(weight * 1.2, **more)


right_quantization = bnb.nn.Params4bit
right_attention, right_adapter = attention.attend, merging.read_adapter


def test_a_wrong_kernel_is_named_with_its_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = examine("cpu")
    names = ("NF4 product", "packed attention", "merge")
    assert {k.name: k.right for k in device.kernels} == dict.fromkeys(names, True)
    assert all(k.difference is not None and k.difference <= k.limit for k in device.kernels)
    assert device.right and device.precision == ("bfloat16" if cpu_has_bfloat16() else "float32")

    monkeypatch.setattr(bnb.nn, "Params4bit", wrong_quantization)
    monkeypatch.setattr(attention, "attend", wrong_attention)
    monkeypatch.setattr(merging, "read_adapter", wrong_adapter)
    device = examine("cpu")
    assert {k.name: k.right for k in device.kernels} == dict.fromkeys(names, False)
    assert not device.right and all(k.difference > 5 * k.limit for k in device.kernels if k.difference)


def test_a_kernel_that_gives_no_number_or_fails_is_not_right() -> None:
    ones = torch.ones(2)
    assert checked("k", 0.1, lambda: (ones, ones)).right
    assert not checked("k", 0.1, lambda: (ones * torch.nan, ones)).right
    failed = checked("k", 0.1, lambda: (ones @ torch.ones(3), ones))
    assert not failed.right and failed.difference is None and failed.problem.startswith("RuntimeError")


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
    assert [k["right"] for k in cpu["kernels"]] == [True, True, True] and not cpu["problem"]
    assert gpu["problem"].startswith("torch sees no such GPU") and "cuda:99: unusable" in machine["runs"][1]
    assert machine["versions"]["torch"] == torch.__version__ and machine["disk_free_bytes"] > 0
    assert machine["memory_bytes"] == cpu["memory_bytes"]
