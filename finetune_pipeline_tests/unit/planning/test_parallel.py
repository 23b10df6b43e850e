"""How several devices share a training, and what they cannot share."""

from __future__ import annotations

import pytest

from finetune_pipeline.planning.parallel import least_bytes, per_process, refusals, strategy
from finetune_pipeline.spec.model import TrainingSpec

GIB = 2**30


def test_what_fits_on_one_device_is_not_split() -> None:
    assert strategy(60 * GIB, 80 * GIB)[0] == "ddp"
    assert strategy(70 * GIB, 80 * GIB)[0] == "fsdp2"
    assert "70.0 GiB of 80.0 GiB" in strategy(70 * GIB, 80 * GIB)[1]
    assert strategy(70 * GIB, 80 * GIB, "ddp") == ("ddp", "as FINETUNE_PARALLEL=ddp says")


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "rows"), [(16, 8, 2, 8), (8, 8, 2, 4), (12, 4, 2, 3), (8, 8, 8, 1), (6, 4, 1, 3)]
)
def test_rows_of_a_process(batch: int, micro: int, processes: int, rows: int) -> None:
    assert per_process(batch, micro, processes) == rows


def test_methods_by_what_they_need() -> None:
    seven = 14_000_000_000  # bytes of 7e9 parameters in 16 bits

    def needs(method: str) -> int:
        return least_bytes(seven, TrainingSpec.model_validate({"method": method}).model_dump(), 2)

    assert needs("full") == 112_000_000_000
    assert needs("lora") == seven
    assert needs("qlora") == pytest.approx(3.61e9, rel=0.01)


def test_only_what_cannot_work_is_refused() -> None:
    def rules(processes: int, chosen: str, **changes: object) -> list[str]:
        settings = TrainingSpec.model_validate({"batch_size": 8, **changes}).model_dump()
        return [f.rule.removeprefix("training.") for f in refusals(settings, processes, chosen)]

    assert rules(2, "ddp") == []
    assert rules(3, "ddp") == ["batch_over_devices"]
    assert rules(2, "fsdp2") == ["four_bit_sharded"]
    for method in ("lora", "full", "prefix", "prompt"):
        assert rules(2, "fsdp2", method=method) == []
