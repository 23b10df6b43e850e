"""Times: from what was measured here, the nearer the narrower; a finished training makes the next plan better."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.planning.calibrate import calibrate
from finetune_pipeline.planning.throughput import (
    Rate,
    estimate_time,
    keep_rate,
    machine_name,
    matrix_product_rate,
    read_rates,
    record_training,
)
from finetune_pipeline.training.sft import train
from finetune_pipeline_tests.unit.training.jobs import make_inputs, settings

KIND = {"model": "m", "method": "qlora", "precision": "float32"}


def rate(speed: float, source: str = "training", **changes: str) -> Rate:
    told = {"machine": machine_name(), **KIND, "source": source, "date": "2026-11-01", **changes}
    return Rate(flops_per_second=speed, **told)  # type: ignore[arg-type]


def test_what_was_measured_nearest_decides() -> None:
    width = {}
    for name, rates in {
        "training": [rate(2e9), rate(1e9, "calibration"), rate(5e9, method="lora")],
        "calibration": [rate(1e9, "calibration"), rate(5e9, method="lora")],
        "another kind": [rate(1e9, method="lora"), rate(7e9, machine="elsewhere")],
        "matrix product": [rate(7e9, machine="elsewhere")],
    }.items():
        told = estimate_time(2e12, rates, **KIND, peak=6e9)
        assert told.low < told.expected < told.high
        width[name] = told.high / told.low
        assert told.expected == {"training": 1000, "matrix product": 1000}.get(name, 2000)
        assert name in told.source or (name == "training" and "1 training of this kind" in told.source)
    assert list(width.values()) == sorted(width.values())
    two = estimate_time(1e12, [rate(1e9), rate(2e9)], **KIND)
    assert two.low < 500 and two.high > 1000 and two.expected == 500, "the interval covers both, the newest is likely"


def test_the_newest_eight_of_a_kind_are_kept(tmp_path: Path) -> None:
    keep_rate(tmp_path, rate(1.0, method="lora"))
    for n in range(11):
        keep_rate(tmp_path, rate(float(n)))
    kept = read_rates(tmp_path)
    assert [r.flops_per_second for r in kept if r.method == "qlora"] == [float(n) for n in range(3, 11)]
    assert sum(r.method == "lora" for r in kept) == 1
    (tmp_path / "throughput.json").write_text("{")
    assert read_rates(tmp_path) == []


def test_a_finished_training_makes_the_second_plan_better(tmp_path: Path) -> None:
    plan = {"phases": [{"method": "qlora", "steps": 10, "flops": 1e12}, {"method": "lora", "steps": 20, "flops": 3e12}]}
    measured = {"phases": [{"steps_run": 10, "train_seconds": 100.0}, {"steps_run": 10, "train_seconds": 100.0}, {}]}
    record_training(tmp_path, "m", plan, {"precision": "float32"}, measured)
    told = {r.method: r.flops_per_second for r in read_rates(tmp_path)}
    assert told == {"qlora": 1e10, "lora": 1.5e10}
    before = estimate_time(1e12, [], **KIND, peak=1e9)
    after = estimate_time(1e12, read_rates(tmp_path), **KIND)
    assert after.high / after.low < before.high / before.low
    assert after.low < 100 < after.high
    resumed = {"steps_run": 1, "train_seconds": 1.0}  # nine of ten steps were done before: says nothing
    record_training(tmp_path, "m", plan, {"precision": "float32"}, resumed)
    assert len(read_rates(tmp_path)) == 2


def test_a_calibration_is_a_short_training_of_every_phase(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "inputs")
    jobs = []

    def launch(job: dict) -> dict:  # type: ignore[type-arg]
        jobs.append(job)
        facts, measured = train(job)
        (Path(job["out"]) / "measured.json").write_text(json.dumps({"seconds": measured["train_seconds"]}))
        return facts

    (tmp_path / "work").mkdir()
    took = calibrate(
        launch,  # type: ignore[arg-type]
        inputs / "base",
        read_examples(inputs / "train.jsonl"),
        settings(epochs=3, unquantized_epochs=1),
        tmp_path / "work",
        home=tmp_path,
        model="tiny",
    )
    rates = read_rates(tmp_path)
    assert took > 0 and [(r.method, r.source, r.model) for r in rates] == [
        ("qlora", "calibration", "tiny"),
        ("lora", "calibration", "tiny"),
    ]
    assert all(r.flops_per_second > 0 and r.precision == "float32" for r in rates)
    assert [job["settings"]["method"] for job in jobs] == ["qlora", "lora"]


def test_the_matrix_product_is_plausible() -> None:
    assert 1e8 < matrix_product_rate() < 1e15
    assert pytest.approx(estimate_time(1e12, [], **KIND, peak=1e9).expected) == 3000
