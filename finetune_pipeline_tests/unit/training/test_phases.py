"""QLoRA's two phases: joined without a seam, the first one never done twice, the second begins where the first ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.worker.phases import train_adapter
from finetune_pipeline_tests.tiny_model import make_tiny_model, write_tiny_examples

SETTINGS = TrainingSpec(
    epochs=1, unquantized_epochs=1, batch_size=8, micro_batch_size=8, learning_rate=0.01, precision="float32"
).model_dump()


class Starter:
    """Runs jobs in processes of their own, and remembers which."""

    def __init__(self) -> None:
        self.jobs: list[Mapping[str, Any]] = []

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        self.jobs.append(job)
        path = Path(job["work"]) / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(job))
        done = subprocess.run(
            [sys.executable, "-m", "finetune_pipeline.worker.entry", str(path)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((Path(job["out"]) / "result.json").read_text())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("phases")
    return {
        "base": make_tiny_model(place / "base"),
        "train": write_tiny_examples(place / "train.jsonl", range(24)),
        "validation": write_tiny_examples(place / "validation.jsonl", range(24, 32)),
    }


def test_two_phases_are_joined_and_the_first_is_not_done_twice(files: dict[str, Path], tmp_path: Path) -> None:
    start, out, work = Starter(), tmp_path / "out", tmp_path / "work"
    out.mkdir()
    facts = train_adapter(start, **files, settings=SETTINGS, out=out, work=work)
    assert [job["settings"]["method"] for job in start.jobs] == ["qlora", "lora"]
    assert start.jobs[1]["steps_before"] == 3
    assert facts["method"] == "qlora"
    assert facts["weights"]["quantized_modules"] == 14
    assert facts["steps"] == 6
    assert facts["overfitting"]["best_step"] == facts["best_step"] > 3
    steps = [row["step"] for row in facts["history"]]
    assert steps == sorted(steps)
    assert steps[-1] == 6
    assert [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()] == facts["history"]
    assert [phase["base"] for phase in facts["phases"]] == ["4-bit", "unquantized"]
    # the same adapter, on the base with and without rounding: close, and not equal
    assert 0 < abs(facts["quantization_gap"]) < 0.5
    before = (out / "adapter" / "adapter_model.safetensors").read_bytes()

    again, other = Starter(), tmp_path / "other"
    other.mkdir()
    repeated = train_adapter(again, **files, settings=SETTINGS, out=other, work=work)
    assert [job["settings"]["method"] for job in again.jobs] == ["lora"], "the finished first phase is taken as it is"
    assert (other / "adapter" / "adapter_model.safetensors").read_bytes() == before
    assert repeated == facts


@pytest.mark.parametrize("change", [{"method": "lora"}, {"unquantized_epochs": 0}])
def test_other_trainings_have_one_phase(files: dict[str, Path], tmp_path: Path, change: dict[str, Any]) -> None:
    start = Starter()
    facts = train_adapter(start, **files, settings={**SETTINGS, **change}, out=tmp_path / "out", work=tmp_path / "work")
    assert len(start.jobs) == 1
    assert start.jobs[0]["start_from"] is None
    assert facts["steps"] == 3
    assert "phases" not in facts
