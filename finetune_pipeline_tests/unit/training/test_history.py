"""The training history survives kills and is cut back on resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_pipeline.training import history


def _fill(path: Path) -> None:
    for step in range(4):
        history.append(path, {"step": step, "epoch": step / 2, "loss": 1.0 / (step + 1), "seconds": 0.5 * step})


def test_reads_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    assert history.read(path) == []
    _fill(path)
    assert [e["step"] for e in history.read(path)] == [0, 1, 2, 3]
    assert "seconds" not in history.without_times(history.read(path))[0]


def test_a_line_torn_by_a_kill_is_left_out_and_cut_away(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    _fill(path)
    with path.open("a") as out:
        out.write('{"step": 4, "lo')
    assert len(history.read(path)) == 4
    assert [e["step"] for e in history.cut_back(path, 2)] == [0, 1, 2]
    history.append(path, {"step": 3})
    assert [e["step"] for e in history.read(path)] == [0, 1, 2, 3]


def test_a_damaged_line_inside_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text('{"step": 0}\n{"ste\n{"step": 2}\n')
    with pytest.raises(ValueError, match="delimiter|Unterminated|Invalid"):
        history.read(path)
