"""The regression ledger: fixed, broken, both, per earlier version; a pure function of predictions."""

from __future__ import annotations

import pyarrow.dataset as ds

from finetune_pipeline.evaluation.regression_ledger import FOLDER, outcomes_of, record, recorded, regressions
from finetune_pipeline_tests.unit.evaluation.rows import paired, rows, spec


def test_outcomes_are_right_or_wrong_per_row():
    stored = outcomes_of(rows([("bug", "bug"), ("bug", "other"), ("bug", " bug\n"), ("bug", "Bug")]), spec().output)
    assert stored == {"e0000": True, "e0001": False, "e0002": True, "e0003": False}


def test_what_was_recorded_comes_back_in_the_order_asked_for_and_is_one_table(tmp_path):
    record(tmp_path, "b", {"x": True, "y": False})
    record(tmp_path, "a", {"y": True})
    record(tmp_path, "a", {"y": True, "z": False})
    assert recorded(tmp_path, ["b", "gone", "a"]) == {"b": {"x": True, "y": False}, "a": {"y": True, "z": False}}
    assert list(recorded(tmp_path, ["b", "a"])) == ["b", "a"]
    table = ds.dataset(tmp_path / FOLDER).to_table().to_pylist()
    assert {(r["candidate"], r["example_id"], r["right"]) for r in table} == {
        ("a", "y", True), ("a", "z", False), ("b", "x", True), ("b", "y", False),
    }  # fmt: skip


def test_fixed_broken_and_both_per_earlier_version():
    before, after = paired(50, 3, 7, 40)
    output = spec().output
    history = regressions({"v1": outcomes_of(before, output), "v2": {"e0000": False}}, outcomes_of(after, output))
    stored = history.model_dump()
    assert stored["versions"] == [
        {"candidate": "v1", "rows": 100, "fixed": 7, "broken": 3, "both_right": 50, "both_wrong": 40},
        {"candidate": "v2", "rows": 1, "fixed": 1, "broken": 0, "both_right": 0, "both_wrong": 0},
    ]
    assert stored["rows"] == {"always_right": 49, "never_right": 40, "changing": 11}
    assert stored["lost"] == ["e0050", "e0051", "e0052"] and stored["lost_total"] == 3


def test_a_row_is_lost_only_when_every_earlier_version_had_it():
    history = regressions({"v1": {"x": True, "y": True}, "v2": {"x": True, "y": False}}, {"x": False, "y": False})
    assert history.lost == ["x"]
    many = {f"r{i:02}": True for i in range(30)}
    history = regressions({"v1": many}, dict.fromkeys(many, False))
    assert (len(history.lost), history.lost_total) == (20, 30)
