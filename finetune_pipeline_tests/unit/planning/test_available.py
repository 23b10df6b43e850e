"""Free memory: what the user says, what the container leaves, or what the machine has."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from finetune_pipeline.planning.available import available_memory


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
    with pytest.raises(ValueError, match="no number of GiB"):
        available_memory("cpu")
