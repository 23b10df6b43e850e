"""Several processes train what one trains: same loss, same weights; and they live and die together."""

import contextlib
import json
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.training import checkpoints
from finetune_pipeline.training.sft import train
from finetune_pipeline.worker.launch import _outcome, choose, write_worker_error
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model
from finetune_pipeline_tests.unit.processes import is_running, wait_until
from finetune_pipeline_tests.unit.training.jobs import finish, job, start

# batches of 8 rows; 16 rows are two whole ones, so that no process is given a row twice
SMALL: dict[str, Any] = {"epochs": 2, "evals_per_epoch": 1, "dropout": 0.0, "batch_size": 8, "micro_batch_size": 2}
TOLERANCE = 2e-5
"""Relative, of losses and gradient norms: sums over two processes add in another order than sums over one."""
TWO = {"FINETUNE_PROCESSES": "2"}


def _example(i: int) -> Example:
    """Answers have from one word to thirty: no two processes learn equally many tokens of a batch."""
    answer = " ".join([LABELS[i % 3]] * (1 if i % 4 else 30))
    turns = [("system", SYSTEM), ("user", f"ticket {i} says {i * 7}"), ("assistant", answer)]
    messages = [{"role": role, "content": text} for role, text in turns]
    return Example(f"row{i}", messages, source={"file": "a.jsonl", "line": i + 1})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    make_tiny_model(folder / "base")
    write_examples(folder / "train.jsonl", map(_example, range(16)))
    write_examples(folder / "validation.jsonl", map(_example, range(100, 107)))
    return folder


def _weights(place: Path) -> dict[str, torch.Tensor]:
    (file,) = (place / "out" / "adapter").glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(("method", "packed"), [("qlora", True), ("full", False)])
def test_two_processes_train_what_one_trains(inputs: Path, tmp_path: Path, method: str, packed: bool) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {**SMALL, "method": method, "shared_prefix": packed}
    expected, _ = train(job(inputs, one, **{**changes, "micro_batch_size": 4}))
    code, errors = finish(start(job(inputs, two, **changes), two, **TWO))
    assert code == 0, errors
    facts = json.loads((two / "out" / "result.json").read_text())
    assert (facts["processes"], facts["strategy"], expected["processes"]) == (2, "ddp", 1)
    assert facts["shared_prefix"]["used"] is packed and facts["steps"] == expected["steps"] == 4
    for ours, theirs in zip(facts["history"], expected["history"], strict=True):
        for key in ("loss", "eval_loss", "grad_norm"):
            assert (key in ours) is (key in theirs)
            assert ours.get(key, 0.0) == pytest.approx(theirs.get(key, 0.0), rel=TOLERANCE), (ours, theirs)
        assert ours.get("learning_rate") == theirs.get("learning_rate")
    weights = _weights(two)
    torch.testing.assert_close(weights, _weights(one), rtol=1e-3, atol=2e-5)
    assert all(t.abs().sum() > 0 for name, t in weights.items() if "lora_A" not in name), "a slice was not saved"


# --- one process, one end


def _ranks(place: Path) -> dict[int, psutil.Process]:
    """The training processes."""
    ranks = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            rank = process.environ().get("RANK")
            if rank is not None and str(place / "job.json") in process.cmdline():
                ranks[int(rank)] = process
    return ranks


def test_the_death_of_one_process_ends_all_and_the_next_try_ends_as_if_nothing_had_been(inputs, tmp_path) -> None:
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    changes = {**SMALL, "epochs": 6, "dropout": 0.2}
    code, errors = finish(start(job(inputs, undisturbed, **changes), undisturbed, **TWO))
    assert code == 0, errors
    running = start(job(inputs, killed, **changes), killed, **TWO)
    saved = killed / "work" / "checkpoints"
    wait_until(lambda: running.poll() is not None or any(saved.glob(f"*/{checkpoints.MARK}")), 150)
    processes = _ranks(killed)
    assert sorted(processes) == [0, 1], running.communicate()[1]
    processes[1].kill()
    code, errors = finish(running)
    assert code == -signal.SIGKILL, errors
    error = json.loads((killed / "out" / "error.json").read_text())
    assert error["kind"] == "killed" and "process 1" in error["message"]
    wait_until(lambda: not any(is_running(p.pid) for p in processes.values()))
    assert not (killed / "out" / "result.json").exists()
    code, errors = finish(start(job(inputs, killed, **changes), killed, **TWO))
    assert code == 0, errors
    assert json.loads((killed / "out" / "measured.json").read_text())["resumed_from"]
    ours, theirs = (p / "out" / "adapter" / "adapter_model.safetensors" for p in (killed, undisturbed))
    assert ours.read_bytes() == theirs.read_bytes(), "dropout of each process goes on where it was"
    steps = [(e["step"], "loss" in e) for e in map(json.loads, (killed / "work" / "history.jsonl").open())]
    assert len(steps) == len(set(steps)), "only one process writes the history"


def test_the_cause_decides_not_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(codes: dict[int, int], *errors: tuple[int, int, str], stopped: str | None = None) -> int:
        (tmp_path / "error.json").unlink(missing_ok=True)
        monkeypatch.setenv("FINETUNE_STRATEGY", "ddp")
        for rank, code, kind in errors:  # in the order in which the processes write
            monkeypatch.setenv("RANK", str(rank))
            write_worker_error(tmp_path, code, kind, kind)
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


def test_what_fits_on_one_device_is_not_split_and_what_cannot_be_shared_is_refused(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(gib: int, **changes: Any) -> str:
        return choose({**job(inputs, tmp_path, **{**SMALL, **changes}), "memory_bytes": gib * 2**30}, 2)[0]

    assert chosen(10_000) == "ddp", "on the CPU"
    monkeypatch.setenv("FINETUNE_PARALLEL", "fsdp2")
    with pytest.raises(FindingsError, match="8 or 10") as error:
        chosen(1, batch_size=9, micro_batch_size=3, method="qlora")
    rules = [f.rule for f in error.value.findings]
    assert rules == ["training.batch_over_devices", "training.four_bit_sharded", "training.cpu_sharded"]
    monkeypatch.setenv("FINETUNE_PARALLEL", "auto")
    monkeypatch.setattr("finetune_pipeline.worker.launch._gpu_bytes", lambda: [80 * 2**30] * 2)
    assert (chosen(60), chosen(70, method="lora")) == ("ddp", "fsdp2")
    monkeypatch.setenv("FINETUNE_PARALLEL", "ddp")
    assert chosen(70) == "ddp"
