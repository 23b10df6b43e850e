"""Every method, killed at a random step and while saving, ends as the undisturbed training does, to the bit."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.training.sft import job_digest
from finetune_pipeline_tests.unit.training.jobs import job, make_inputs, settings
from finetune_pipeline_tests.unit.training.killed import result, trained

METHODS = ("qlora", "full", "prefix", "prompt")  # the second phase of qlora is lora


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"), rows=24)


def _settings(method: str) -> dict[str, Any]:
    """Three rows of steps an epoch, dropout on, validation and checkpoint twice an epoch, early stopping on guard."""
    second = {"unquantized_epochs": 2} if method == "qlora" else {}
    rate = {"full": 1e-3, "prefix": 1e-2, "prompt": 3e-2}.get(method, 5e-3)
    return settings(method=method, epochs=3, evals_per_epoch=2, dropout=0.2, learning_rate=rate, patience=2, **second)


@pytest.mark.parametrize("method", METHODS)
def test_killed_at_a_random_step_and_while_saving(inputs: Path, tmp_path: Path, method: str) -> None:
    told = _settings(method)
    assert trained(inputs, tmp_path / "undisturbed", told) == 0
    weights, facts = result(tmp_path / "undisturbed")
    draw = random.Random(f"kills of {method}")
    first, second = sorted(draw.sample(range(2, facts["steps"]), 2))
    print(f"{method}: {facts['steps']} steps, killed after step {first} and while saving at step {second}")
    place = tmp_path / "killed"
    for step, moment in ((first, "step"), (second, "saving")):
        assert trained(inputs, place, told, kill_at=step, moment=moment) == -signal.SIGKILL
        assert not (place / "facts.json").exists()
    assert trained(inputs, place, told) == 0
    again, facts_again = result(place)
    assert again == weights
    assert facts_again == facts
    measured = json.loads((place / "out" / "measured.json").read_text())
    if method != "qlora" or second > facts["phases"][0]["steps"] + 2:
        assert measured["resumed_from"] is not None


@pytest.mark.parametrize("changed", ["train", "validation", "base", "start_from", "settings", "place"])
def test_a_checkpoint_belongs_to_its_inputs(inputs: Path, tmp_path: Path, changed: str) -> None:
    copy = shutil.copytree(inputs, tmp_path / "inputs")
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "adapter_model.safetensors").write_bytes(b"weights")

    def made(place: str = "a") -> dict[str, Any]:
        return {**job(copy, tmp_path / place, method="lora"), "start_from": str(tmp_path / "first")}

    before = job_digest(made())
    if changed in ("train", "validation"):
        rows = (copy / f"{changed}.jsonl").read_text()
        (copy / f"{changed}.jsonl").write_text(rows.replace("ticket", "Ticket", 1))
    elif changed == "base":
        weights = copy / "base" / "model.safetensors"
        told = bytearray(weights.read_bytes())
        told[-1] ^= 1
        weights.write_bytes(told)
    elif changed == "start_from":
        (tmp_path / "first" / "adapter_model.safetensors").write_bytes(b"others")
    after = made("b" if changed == "place" else "a")
    if changed == "settings":
        after["settings"]["seed"] = 7
    assert (job_digest(after) == before) is (changed == "place")
