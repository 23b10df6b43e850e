"""QLoRA's two phases: joined without a seam, the first one never done twice, the second begins where the first ended."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.trainers import TRAINERS, TrainingOrder, preflight, train
from finetune_pipeline.trainers.local import LocalTrainer
from finetune_pipeline.training.facts import LocalTraining
from finetune_pipeline_tests.trainings import LOCAL
from finetune_pipeline_tests.unit.training.jobs import finish, settings, start, task

ROWS = 24


class Starter:
    """Runs jobs in processes of their own, and remembers which. cold: see :func:`start`."""

    def __init__(self, cold: bool = False) -> None:
        self.jobs: list[TrainJob] = []
        self.cold = cold

    def __call__(self, job: TrainJob) -> dict[str, Any]:
        self.jobs.append(job)
        code, errors = finish(start(job, job.work, cold=self.cold))
        assert code == 0, errors
        return json.loads((job.out / "result.json").read_text())


def order(inputs: Path, out: Path, work: Path, launch: Starter, **changes: Any) -> TrainingOrder:
    training = settings(epochs=1, micro_batch_size=8, **changes)
    files = inputs / "base", inputs / "train.jsonl", inputs / "validation.jsonl"
    return TrainingOrder(task(training), *files, out, work, launch)


def test_two_phases_are_joined_and_the_first_is_not_done_twice(inputs: Path, tmp_path: Path) -> None:
    launch, out, work = Starter(), tmp_path / "out", tmp_path / "work"
    facts = train(order(inputs, out, work, launch, unquantized_epochs=1))
    assert [job.settings.method for job in launch.jobs] == ["qlora", "lora"]
    assert launch.jobs[1].steps_before == 3
    assert (facts.method, facts.weights.quantized_modules, facts.steps) == ("qlora", 14, 6)
    assert facts.overfitting.best_step == facts.best_step > 3
    steps = [row.step for row in facts.history]
    assert steps == sorted(steps) and steps[-1] == 6
    assert [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()] == facts.to_json()["history"]
    assert [phase.base for phase in facts.phases] == ["4-bit", "unquantized"]
    # the same adapter, on the base with and without rounding: close, and not equal
    assert 0 < abs(facts.quantization_gap) < 0.5
    measured = json.loads((out / "measured.json").read_text())
    assert measured["steps_run"] == 6 and len(measured["phases"]) == 2

    second_starter = Starter()
    repeated = train(order(inputs, tmp_path / "other", work, second_starter, unquantized_epochs=1))
    assert [job.settings.method for job in second_starter.jobs] == ["lora"], (
        "the finished first phase is taken as it is"
    )
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "other" / name).read_bytes() == (out / name).read_bytes()
    assert repeated == facts


def test_without_a_second_phase_there_is_one_training_which_takes_the_planned_memory(inputs, tmp_path) -> None:
    launch = Starter(cold=True)
    single_phase = order(inputs, tmp_path / "out", tmp_path / "work", launch, unquantized_epochs=0)
    facts = train(single_phase)
    assert len(launch.jobs) == 1 and launch.jobs[0].start_from is None
    assert facts.steps == 3 and facts.phases is None
    rows = (read_examples(inputs / f"{split}.jsonl") for split in ("train", "validation"))
    measured = json.loads((tmp_path / "out/measured.json").read_text())
    planned = training_plan(single_phase.spec, inputs / "base", *rows).memory_mib
    assert planned["total"] == pytest.approx(measured["peak_memory_mib"], rel=0.2)


def test_an_unknown_trainer_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    (finding,) = [f for f in preflight(task({"trainer": "locale"}), tmp_path) if f.rule == "training.trainer"]
    assert finding.severity == "error" and finding.fix == "did you mean 'local'?"
    assert not [f for f in preflight(task({}), tmp_path) if f.rule == "training.trainer"]


def test_a_trainer_that_returns_something_else_is_named(inputs: Path, tmp_path: Path, monkeypatch) -> None:
    class Hasty(LocalTrainer):
        def submit(self, order: TrainingOrder) -> str:
            return "job 1"

        def collect(self, training: str, order: TrainingOrder) -> Any:
            return self.result

    monkeypatch.setitem(TRAINERS, "local", Hasty())
    ordered = order(inputs, tmp_path / "out", tmp_path / "work", lambda job: {})
    monkeypatch.setattr(Hasty, "result", {"steps": 3}, raising=False)
    with pytest.raises(JobError, match="the trainer local returned dict, and not the facts of a training"):
        train(ordered)
    wrong = replace(LocalTraining.of(LOCAL), steps="3")
    monkeypatch.setattr(Hasty, "result", wrong, raising=False)
    with pytest.raises(JobError, match=r"returned wrong facts: Expected `int`, got `str` - at `\$.steps`"):
        train(ordered)
