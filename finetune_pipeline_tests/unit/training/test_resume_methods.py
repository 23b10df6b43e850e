"""Every method, killed at a random step and while saving, ends as the undisturbed training does, to the bit."""

import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.training.sft import job_digest
from finetune_pipeline_tests.unit.training.jobs import call, job, settings, task

ROWS = 24


def work(inputs: str, place: str, settings: dict[str, Any], kill_at: int | None, moment: str) -> None:
    """Train (in both phases, where there are two). kill_at: a step, counted over both phases."""
    from finetune_pipeline.trainers import TrainingOrder
    from finetune_pipeline.trainers import train as train_as_ordered
    from finetune_pipeline.training import checkpoints, trainer
    from finetune_pipeline.training.sft import train

    begun = {"before": 0}
    ended, marked = trainer.ProgressCallback.on_step_end, checkpoints.mark_complete

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if moment == "step" and begun["before"] + state.global_step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        ended(self, args, state, control, **more)

    def mark_complete(folder: Path, *more: Any) -> None:
        if moment == "saving" and kill_at is not None and begun["before"] + int(folder.name.split("-")[1]) >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        marked(folder, *more)

    trainer.ProgressCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    checkpoints.mark_complete = mark_complete

    def launch(job: TrainJob) -> dict[str, Any]:
        begun["before"] = job.steps_before
        facts, measured = train(job)
        usual = {"seconds": 0.0, "cpu_seconds": 0.0, "peak_memory_mib": 0.0}
        write_json(job.out / "measured.json", {**usual, **measured})
        write_json(job.out / "result.json", facts.to_json())
        return facts.to_json()

    folder, results = Path(inputs), Path(place)
    order = TrainingOrder(
        task(settings), base=folder / "base", train=folder / "train.jsonl", validation=folder / "validation.jsonl",
        out=results / "out", work=results / "work", launch=launch,
    )  # fmt: skip
    (results / "facts.json").write_text(json.dumps(train_as_ordered(order).to_json()))


def trained(
    inputs: Path, place: Path, settings: dict[str, Any], kill_at: int | None = None, moment: str = "step"
) -> int:
    """Train in a process of its own, which SIGKILLs itself at step `kill_at`, or (``saving``) before the first checkpoint
    from that step on counts. Returns its exit code."""
    return call(work, str(inputs), str(place), settings, kill_at, moment, seconds=240).returncode


def result(place: Path) -> tuple[bytes, dict[str, Any]]:
    """(bytes of the weights, facts)"""
    (weights,) = (place / "out" / "adapter").glob("*.safetensors")
    return weights.read_bytes(), json.loads((place / "facts.json").read_text())


METHODS = (
    "qlora",
    "full",
    "prefix",
    "classifier",
)  # the second phase of qlora is lora; prompts are saved as prefixes are


def _settings(method: str) -> dict[str, Any]:
    """Three rows of steps an epoch, dropout on, validation and checkpoint twice an epoch, early stopping on guard."""
    second = {"unquantized_epochs": 2} if method == "qlora" else {}
    rate = {"full": 1e-3, "prefix": 1e-2}.get(method, 5e-3)
    return settings(
        method=method, epochs=3, evals_per_epoch=2, dropout=0.2, learning_rate=rate, patience=2, **second
    ).model_dump()


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_a_random_step_and_while_saving(inputs: Path, tmp_path: Path, method: str) -> None:
    chosen = _settings(method)
    assert trained(inputs, tmp_path / "undisturbed", chosen) == 0
    weights, facts = result(tmp_path / "undisturbed")
    draw = random.Random(f"kills of {method}")
    first, second = sorted(draw.sample(range(2, facts["steps"]), 2))
    print(f"{method}: {facts['steps']} steps, killed after step {first} and while saving at step {second}")
    place = tmp_path / "killed"
    for step, moment in ((first, "step"), (second, "saving")):
        assert trained(inputs, place, chosen, kill_at=step, moment=moment) == -signal.SIGKILL
        assert not (place / "facts.json").exists()
        for history in (place / "work").rglob(
            "history.jsonl"
        ):  # as after a power failure: only checkpoints have digests
            history.write_bytes(bytes(9))
    assert trained(inputs, place, chosen) == 0
    assert result(place) == (weights, facts)
    measured = json.loads((place / "out" / "measured.json").read_text())
    if method != "qlora" or second > facts["phases"][0]["steps"] + 2:
        assert measured["resumed_from"] is not None


def test_a_checkpoint_belongs_to_its_inputs(inputs: Path, tmp_path: Path) -> None:
    copy, first = shutil.copytree(inputs, tmp_path / "inputs"), tmp_path / "first" / "adapter_model.safetensors"
    first.parent.mkdir()
    first.write_bytes(b"weights")

    def digest(place: str = "a", **changes: Any) -> str:
        return job_digest(replace(job(copy, tmp_path / place, method="lora", **changes), start_from=first.parent))

    digests = {digest()}
    assert digest("b") in digests, "its place is none of them"
    digests.add(digest(seed=7))
    for path in (copy / "train.jsonl", copy / "validation.jsonl", copy / "base" / "model.safetensors", first):
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])
        digests.add(digest())
    assert len(digests) == 6
