"""Several processes train what one trains: same loss, same weights; and they live and die together."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finetune_pipeline.training import checkpoints, history
from finetune_pipeline.training.sft import train
from finetune_pipeline.worker.launch import _outcome, choose, write_worker_error
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model
from finetune_pipeline_tests.unit.processes import is_running, wait_until
from finetune_pipeline_tests.unit.training.jobs import finish, job, start

# batches of 8 rows; 16 rows are two whole ones, so that no process is given a row twice
SMALL: dict[str, Any] = {"epochs": 2, "evals_per_epoch": 1, "dropout": 0.0, "batch_size": 8}
TOLERANCE = 2e-5
"""Relative, of losses and gradient norms: sums over two processes add in another order than sums over one."""
Trained = tuple[dict[str, Any], dict[str, torch.Tensor]]


def _write(path: Path, numbers: range) -> None:
    """Rows whose answers have from one word to thirty: no two processes learn equally many tokens of a batch."""
    with path.open("w") as out:
        for i in numbers:
            answer = " ".join([LABELS[i % 3]] * (1 if i % 4 else 30))
            turns = [("system", SYSTEM), ("user", f"ticket {i} says {i * 7}"), ("assistant", answer)]
            messages = [{"role": role, "content": text} for role, text in turns]
            source = {"file": "a.jsonl", "line": i + 1}
            row = {"id": f"row{i}", "messages": messages, "label": None, "group": None, "origin": "human"}
            out.write(json.dumps({**row, "source": source, "tags": []}) + "\n")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_tiny_model(folder / "base")
    _write(folder / "train.jsonl", range(16))
    _write(folder / "validation.jsonl", range(100, 107))
    return folder


def _weights(place: Path) -> dict[str, torch.Tensor]:
    (file,) = (place / "out" / "adapter").glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Trained]:
    made: dict[str, Trained] = {}

    def of(method: str, packed: bool) -> Trained:
        key = f"{method}-{packed}"
        if key not in made:
            place = tmp_path_factory.mktemp(key)
            changes = {**SMALL, "method": method, "shared_prefix": packed, "micro_batch_size": 4}
            made[key] = train(job(inputs, place, **changes))[0], _weights(place)
        return made[key]

    return of


def _together(inputs: Path, place: Path, **changes: Any) -> Trained:
    settings = {**SMALL, "micro_batch_size": 2, **changes}
    code, errors = finish(start(job(inputs, place, **settings), place, cold=settings["method"] == "qlora", **TWO))
    assert code == 0, errors
    return json.loads((place / "out" / "result.json").read_text()), _weights(place)


TWO = {"FINETUNE_PROCESSES": "2"}


@pytest.mark.parametrize(("method", "packed"), [("qlora", True), ("full", False)])
def test_two_processes_train_what_one_trains(
    inputs: Path, alone: Callable[..., Trained], tmp_path: Path, method: str, packed: bool
) -> None:
    facts, weights = _together(inputs, tmp_path, method=method, shared_prefix=packed)
    expected, expected_weights = alone(method, packed)
    assert (facts["processes"], facts["strategy"], expected["processes"]) == (2, "ddp", 1)
    assert facts["shared_prefix"]["used"] is packed
    assert facts["steps"] == expected["steps"] == 4
    assert len(facts["history"]) == len(expected["history"])
    for ours, theirs in zip(facts["history"], expected["history"], strict=True):
        for key in ("loss", "eval_loss", "grad_norm"):
            assert (key in ours) is (key in theirs)
            assert ours.get(key, 0.0) == pytest.approx(theirs.get(key, 0.0), rel=TOLERANCE), (ours, theirs)
        assert ours.get("learning_rate") == theirs.get("learning_rate")
    assert weights.keys() == expected_weights.keys()
    changed = False
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected_weights[name], rtol=1e-3, atol=2e-5)
        changed = changed or bool(tensor.abs().sum() > 0)
    assert changed
    assert not any(t.abs().sum() == 0 for name, t in weights.items() if "lora_B" in name), "a slice was not saved"


# --- one process, one end


class Pair:
    """A long training of two processes, of which one has written a checkpoint."""

    def __init__(self, inputs: Path, place: Path, **changes: Any) -> None:
        self.place = place
        self.job = job(inputs, place, **{**SMALL, "micro_batch_size": 2, "epochs": 6, **changes})
        self.process: subprocess.Popen[str] = start(self.job, place, **TWO)

    def ranks(self) -> list[psutil.Process]:
        """The training processes, in order of rank."""
        found = {}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                rank = process.environ().get("RANK")
                if rank is not None and str(self.place / "job.json") in process.cmdline():
                    found[int(rank)] = process
        return [found[rank] for rank in sorted(found)]

    def wait_for_checkpoint(self) -> list[psutil.Process]:
        def there() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.process.communicate()[1])
            return any((self.place / "work" / "checkpoints").glob(f"*/{checkpoints.MARK}"))

        wait_until(there, 150)
        found = self.ranks()
        assert len(found) == 2
        return found

    def error(self) -> dict[str, Any]:
        return json.loads((self.place / "out" / "error.json").read_text())


def test_the_death_of_one_process_ends_all_and_the_next_try_ends_as_if_nothing_had_been(
    inputs: Path, tmp_path: Path
) -> None:
    undisturbed = Pair(inputs, tmp_path / "undisturbed", dropout=0.2)
    code, errors = finish(undisturbed.process)
    assert code == 0, errors
    killed = Pair(inputs, tmp_path / "killed", dropout=0.2)
    processes = killed.wait_for_checkpoint()
    processes[1].kill()
    code, errors = finish(killed.process)
    assert code == -signal.SIGKILL, errors
    assert killed.error()["kind"] == "killed" and "process 1" in killed.error()["message"]
    wait_until(lambda: not any(is_running(p.pid) for p in processes))
    assert not (tmp_path / "killed" / "out" / "result.json").exists()
    code, errors = finish(start(killed.job, killed.place, **TWO))
    assert code == 0, errors
    assert json.loads((killed.place / "out" / "measured.json").read_text())["resumed_from"]
    ours, theirs = (
        (p / "out" / "adapter" / "adapter_model.safetensors").read_bytes() for p in (killed.place, undisturbed.place)
    )
    assert ours == theirs, "dropout of each process goes on where it was"
    steps = [(e["step"], "loss" in e) for e in history.read(killed.place / "out" / "history.jsonl")]
    assert len(steps) == len(set(steps)), "only one process writes the history"


def test_what_cannot_be_shared_is_refused_before_any_process_starts(inputs: Path, tmp_path: Path) -> None:
    work = job(inputs, tmp_path, **{**SMALL, "batch_size": 9, "micro_batch_size": 3, "method": "qlora"})
    code, errors = finish(start(work, tmp_path, **TWO, FINETUNE_PARALLEL="fsdp2"))
    assert code == 64, errors
    error = json.loads((tmp_path / "out" / "error.json").read_text())
    assert [f["rule"] for f in error["findings"]] == [
        "training.batch_over_devices",
        "training.four_bit_sharded",
        "training.cpu_sharded",
    ]
    assert "8 or 10" in error["message"]


def test_the_cause_decides_not_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(codes: dict[int, int], *errors: tuple[int, int, str], stopped: str | None = None) -> int:
        (tmp_path / "error.json").unlink(missing_ok=True)
        monkeypatch.setenv("FINETUNE_STRATEGY", "ddp")
        for rank, code, kind in errors:  # in the order in which the processes write
            monkeypatch.setenv("RANK", str(rank))
            write_worker_error(tmp_path, code, kind, kind, [])
        code = _outcome(tmp_path, codes, stopped)
        assert json.loads((tmp_path / "error.json").read_text())["code"] == code
        return code

    lost = (0, 1, "error")  # connection closed by peer
    assert outcome({0: 1, 1: 75}, lost, (1, 75, "memory")) == 75
    assert outcome({0: 1, 1: 64}, (1, 64, "findings"), lost) == 64
    assert outcome({1: 1}, (0, 85, "stopped"), (1, 1, "error"), stopped="SIGTERM") == 85
    assert outcome({0: 1}, lost, (1, 75, "memory"), stopped="SIGTERM") == 75, "the signal came after memory ran out"
    assert outcome({0: 1, 1: -9}, lost) == -9
    assert outcome({0: 1, 1: -15}, lost) == 1, "the launcher itself ends the others by SIGTERM"
    assert outcome({}) == 1


def test_what_fits_on_one_device_is_not_split(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(gib: int, **changes: Any) -> str:
        return choose({**job(inputs, tmp_path, **{**SMALL, **changes}), "memory_bytes": gib * 2**30}, 2)[0]

    assert chosen(10_000) == "ddp", "on the CPU"
    monkeypatch.setattr("finetune_pipeline.worker.launch._cards", lambda: [80 * 2**30] * 2)
    assert (chosen(60), chosen(70, method="lora")) == ("ddp", "fsdp2")
    monkeypatch.setenv("FINETUNE_PARALLEL", "ddp")
    assert chosen(70) == "ddp"
