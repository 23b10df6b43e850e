"""Free memory: what the user says, what the container leaves, what the machine or its GPUs have."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from finetune_pipeline.planning.memory import available_memory, gpu_memory


def test_the_smallest_of_what_limits_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FINETUNE_MEMORY_GIB", raising=False)
    free = psutil.virtual_memory().available
    assert available_memory("cpu", tmp_path) == pytest.approx(free, rel=0.5), "no such control group"
    for name, text in {"max": "500000", "current": "300000", "stat": "anon 1\ninactive_file 100000\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert available_memory("cpu", tmp_path) == 300_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory("cpu", tmp_path) > 300_000
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "1.5")
    assert available_memory("cpu", tmp_path) == available_memory("cuda:0") == 3 * 2**29
    monkeypatch.setenv("FINETUNE_MEMORY_GIB", "much")
    with pytest.raises(ValueError, match="not a number of GiB"):
        available_memory("cpu")


def _nvidia_smi(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_free_memory_of_the_gpus_one_may_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    _nvidia_smi(tmp_path, "echo '0, 81000'; echo '1, 40000'", monkeypatch)
    assert gpu_memory() == [81000 * 2**20, 40000 * 2**20]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_memory() == [40000 * 2**20]


@pytest.mark.parametrize("text", ["exit 9", "echo 'No devices were found'"])
def test_memory_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    _nvidia_smi(tmp_path, text, monkeypatch)
    with pytest.raises(ValueError, match="cannot be read"):
        gpu_memory()
