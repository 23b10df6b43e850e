"""The predictions table: what goes in comes out, and what is not complete goes nowhere."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune_pipeline.evaluation.predictions import (
    PREDICTION_SCHEMA,
    costs,
    of_model,
    read_predictions,
    write_predictions,
)
from finetune_pipeline_tests.unit.evaluation.rows import row


def test_round_trip(tmp_path):
    given = [row(1, "bug", "bug\n<é>", label_scores=[]), row(1, "bug", "other", "candidate"), row(2, "bug", "", "base")]
    path = tmp_path / "deeper" / "predictions.parquet"
    write_predictions(path, given)
    assert read_predictions(path) == given
    assert pq.read_schema(path).equals(PREDICTION_SCHEMA)
    assert [r["example_id"] for r in of_model(given, "base")] == ["e0001", "e0002"]


def test_faulty_rows_are_not_written_and_all_problems_are_named_at_once(tmp_path):
    incomplete = row(1, "bug", None)
    del incomplete["new_tokens"]
    faulty = [incomplete, row(2, "bug", "x", status="fine"), row(2, "bug", "y", colour="red")]
    with pytest.raises(ValueError) as error:
        write_predictions(tmp_path / "p.parquet", faulty)
    for problem in ("lacks text, new_tokens", "status 'fine'", "unknown columns colour", "'e0002') is there twice"):
        assert problem in str(error.value)
    assert not (tmp_path / "p.parquet").exists()


def test_a_file_with_other_columns_is_refused(tmp_path):
    table = pa.Table.from_pylist([row(1, "bug", "bug")], schema=PREDICTION_SCHEMA)
    pq.write_table(table.set_column(0, "example_id", pa.array([7])), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="not a predictions file; its columns are:\nexample_id: int64"):
        read_predictions(tmp_path / "p.parquet")


def test_tokens_and_time_are_summed_and_compared() -> None:
    rows = [
        {"model": model, "prompt_tokens": prompt, "new_tokens": new}
        for model, prompt, new in (("base", 90, 10), ("base", 110, 10), ("candidate", 40, 4), ("candidate", 60, 6))
    ]
    cost = costs(
        rows,
        {"adapter": {"seconds": 60.0, "cpu_seconds": 50.0, "train_seconds": 9.0}, "base_ability": {}},
        {"seconds": {"low": 1}},
    )
    assert cost["tokens"] == {"base": {"prompt": 100, "answer": 10}, "candidate": {"prompt": 50, "answer": 5}}
    assert cost["saved_share"] == pytest.approx(0.5)
    assert cost["steps"] == {
        "adapter": {"seconds": 60.0, "cpu_seconds": 50.0, "train_seconds": 9.0, "peak_memory_mib": None}
    }
    assert cost["seconds"] == 60.0
    assert cost["planned"] == {"low": 1}
