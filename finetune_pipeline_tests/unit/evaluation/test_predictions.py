"""The predictions table: what goes in comes out, and what is not complete goes nowhere."""

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from finetune_pipeline.evaluation import predictions
from finetune_pipeline.evaluation.costs import RequestTokens, costs
from finetune_pipeline.evaluation.predictions import of_model, read_predictions, write_predictions
from finetune_pipeline.evaluation.regression_ledger import FOLDER, outcomes_of, record, recorded, regressions
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.training.facts import Measured
from finetune_pipeline_tests.unit.evaluation.rows import paired, row, rows, spec


def test_round_trip(tmp_path):
    original = [
        row(1, "bug", "bug\n<é>", label_scores=[]),
        row(1, "bug", "other", "candidate"),
        row(2, "bug", "", "base"),
    ]
    path = tmp_path / "deeper" / "predictions.parquet"
    write_predictions(path, original)
    assert read_predictions(path) == original
    assert pq.read_schema(path).equals(predictions.PREDICTION_SCHEMA)
    assert [r["example_id"] for r in of_model(original, "base")] == ["e0001", "e0002"]


def test_faulty_rows_are_not_written_and_all_problems_are_named_at_once(tmp_path):
    incomplete = row(1, "bug", None)
    del incomplete["new_tokens"]
    faulty = [incomplete, row(2, "bug", "x", status="fine"), row(2, "bug", "y", colour="red")]
    with pytest.raises(ValueError) as error:
        write_predictions(tmp_path / "p.parquet", faulty)
    for problem in (
        "4 faulty",
        "'text': None",
        "'status': 'fine'",
        "'colour': 'red'",
        "('base', 'e0002') is there 2 times",
    ):
        assert problem in str(error.value)
    assert not (tmp_path / "p.parquet").exists()


def test_a_file_with_other_columns_is_refused(tmp_path):
    table = pa.Table.from_pylist([row(1, "bug", "bug")], schema=predictions.PREDICTION_SCHEMA)
    pq.write_table(table.set_column(0, "example_id", pa.array([7])), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="not a predictions file; its columns are:\nexample_id: int64"):
        read_predictions(tmp_path / "p.parquet")


def test_tokens_and_time_are_summed_and_compared() -> None:
    used = (("base", 90, 10), ("base", 110, 10), ("candidate", 40, 4), ("candidate", 60, 6))
    rows = [{"model": model, "prompt_tokens": prompt, "new_tokens": new} for model, prompt, new in used]
    adapter = Measured(seconds=60.0, cpu_seconds=50.0, train_seconds=9.0)
    cost = costs(rows, {"adapter": adapter, "base_ability": Measured()})
    base, candidate = RequestTokens(prompt=100, answer=10), RequestTokens(prompt=50, answer=5)
    assert cost.tokens == {"base": base, "candidate": candidate}
    assert cost.saved_share == pytest.approx(0.5)
    assert (cost.steps, cost.seconds) == ({"adapter": adapter}, 60.0)


def test_what_was_recorded_comes_back_in_the_order_asked_for_and_is_one_table(tmp_path):
    record(tmp_path, "b", {"x": True, "y": False})
    record(tmp_path, "a", {"y": True})
    record(tmp_path, "a", {"y": True, "z": False})
    assert recorded(tmp_path, ["b", "gone", "a"]) == {"b": {"x": True, "y": False}, "a": {"y": True, "z": False}}
    assert list(recorded(tmp_path, ["b", "a"])) == ["b", "a"]
    (tmp_path / FOLDER / "half.parquet").write_bytes((tmp_path / FOLDER / "a.parquet").read_bytes()[:100])
    with pytest.raises(OutsideError, match=r"half\.parquet is damaged"):
        recorded(tmp_path, ["half"])
    (tmp_path / FOLDER / "half.parquet").unlink()
    table = ds.dataset(tmp_path / FOLDER).to_table().to_pylist()
    assert {(r["candidate"], r["example_id"], r["right"]) for r in table} == {
        ("a", "y", True), ("a", "z", False), ("b", "x", True), ("b", "y", False),
    }  # fmt: skip


def test_fixed_broken_and_both_per_earlier_version():
    output, (before, after) = spec().output, paired(50, 3, 7, 40)
    assert outcomes_of(rows([("bug", " bug\n"), ("bug", "Bug")]), output) == {"e0000": True, "e0001": False}
    history = regressions({"v1": outcomes_of(before, output), "v2": {"e0000": False}}, outcomes_of(after, output))
    stored = history.model_dump()
    assert [list(version.values()) for version in stored["versions"]] == [
        ["v1", 100, 7, 3, 50, 40],
        ["v2", 1, 1, 0, 0, 0],
    ]
    assert stored["rows"] == {"always_right": 49, "never_right": 40, "changing": 11}
    assert stored["lost"] == ["e0050", "e0051", "e0052"] and stored["lost_total"] == 3


def test_a_row_is_lost_only_when_every_earlier_version_had_it():
    history = regressions({"v1": {"x": True, "y": True}, "v2": {"x": True, "y": False}}, {"x": False, "y": False})
    assert history.lost == ["x"]
    history = regressions({"v1": {f"r{i:02}": True for i in range(30)}}, {f"r{i:02}": False for i in range(30)})
    assert (len(history.lost), history.lost_total) == (20, 30)
