"""Time comes from trainings of the same kind on the same machine, or it is not told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finetune_pipeline.planning import throughput
from finetune_pipeline.planning.throughput import Rate, estimate_seconds, keep_rate, read_rates, record_training

RATE = Rate(throughput.machine_name(), "m", "qlora", "float32", 200.0, "2026-11-01")


def test_only_trainings_of_the_same_kind_on_the_same_machine_count() -> None:
    changes = {"machine": "elsewhere", "model": "n", "method": "lora", "precision": "bfloat16"}
    others = [replace(RATE, **{name: value}) for name, value in changes.items()]
    assert estimate_seconds([("qlora", 2000)], others, "m", "float32") is None
    seconds = estimate_seconds([("qlora", 2000)], [*others, RATE], "m", "float32")
    assert seconds and (seconds.low, seconds.expected, seconds.high) == (8.0, 10.0, 13.0)
    assert seconds.source == "the last training of this kind here, on 2026-11-01"
    assert estimate_seconds([("qlora", 2000), ("lora", 10)], [RATE], "m", "float32") is None, "a phase is not measured"


def test_the_newest_of_a_kind_is_kept(tmp_path: Path) -> None:
    for method, speed in (("lora", 1.0), ("qlora", 2.0), ("qlora", 3.0)):
        keep_rate(tmp_path, replace(RATE, method=method, tokens_per_second=speed))
    assert {r.method: r.tokens_per_second for r in read_rates(tmp_path)} == {"lora": 1.0, "qlora": 3.0}
    (tmp_path / "throughput.json").write_text("{")
    assert read_rates(tmp_path) == []


def test_a_training_leaves_the_rates_of_its_phases(tmp_path: Path) -> None:
    plan = {"phases": [{"method": "qlora", "steps": 10, "tokens": 1e5}, {"method": "lora", "steps": 20, "tokens": 3e5}]}
    measured = {"phases": [{"steps_run": 10, "train_seconds": 100.0}, {"steps_run": 10, "train_seconds": 100.0}, {}]}
    record_training(tmp_path, "m", plan, {"precision": "float32"}, measured)
    assert {r.method: r.tokens_per_second for r in read_rates(tmp_path)} == {"qlora": 1000, "lora": 1500}
    resumed = {"steps_run": 1, "train_seconds": 1.0}  # nine of ten steps ran before: says nothing
    record_training(tmp_path, "m", plan, {"precision": "float32"}, resumed)
    assert len(read_rates(tmp_path)) == 2
