"""A pool of processes makes the same files as one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.data import workers
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline_tests.unit.data.rows import LABELS, make_spec, read_lines, unlike, write_raw


def lines(start: int, stop: int) -> list[dict[str, Any]]:
    """Rows of which every second one nearly repeats the one before it."""
    return [{"text": unlike(i // 2, 14) + "!" * (i % 2), "label": LABELS[i // 2 % 3]} for i in range(start, stop)]


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_pool_of_processes_makes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    files = {n: lines(i * 30, i * 30 + 30) for i, n in enumerate("abcd")} | {"e": [b"broken"]}
    for name, content in files.items():
        write_raw(tmp_path / "r", content, f"raw/{name}.jsonl")
    spec = make_spec(min_chars=1)
    for name, large in (("one", 1 << 40), ("two", 0)):
        monkeypatch.setattr(workers, "LARGE", large)
        validate(tmp_path / "r", spec, tmp_path / name / "v")
        clean(tmp_path / name / "v", spec, tmp_path / name / "c", key=b"k")
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    assert len(read_lines(tmp_path / "two/v/quarantine.jsonl")) == 1
    assert len(read_lines(tmp_path / "two/c/duplicates.jsonl")) == 60


def test_results_keep_their_order_and_errors_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "available_cores", lambda: 2)
    assert list(workers.in_order(abs, [-3, 2, -1, 0, 5, -6, 7], workers.LARGE)) == [3, 2, 1, 0, 5, 6, 7]
    with pytest.raises(TypeError):
        list(workers.in_order(abs, [1, "x", 2, 3], workers.LARGE))  # type: ignore[list-item]
