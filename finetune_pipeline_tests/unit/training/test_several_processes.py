"""Several workers train what one process trains: same loss, same weights."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_pipeline.data.examples import Example, write_examples
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.jobs import read_job, write_job
from finetune_pipeline.trainers.ray_job import choose_strategy
from finetune_pipeline.training.sft import train
from finetune_pipeline.worker import entry
from finetune_pipeline_tests.tiny_model import LABELS, SYSTEM, make_tiny_model
from finetune_pipeline_tests.unit.training.jobs import call_together, job

# batches of 8 rows; 16 rows are two whole ones, so that no process is given a row twice
SMALL: dict[str, Any] = {"epochs": 2, "evals_per_epoch": 1, "dropout": 0.0, "batch_size": 8, "micro_batch_size": 2}
TOLERANCE = 2e-5
"""Relative, of losses and gradient norms: sums over two processes add in another order than sums over one."""


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


def train_as_worker(file: str, rank: int, rendezvous: str) -> None:
    """In a process of its own: train as a worker of Ray Train does, which joins the processes before it calls us."""
    variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "FINETUNE_STRATEGY": "ddp"}
    os.environ.update(variables | {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"})
    entry.prepare_environment(worker_job := read_job(Path(file)))
    torch.distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=2)
    entry.do_job(worker_job)
    torch.distributed.barrier()


@pytest.mark.parametrize(("method", "packed"), [("qlora", True), ("full", False)])
def test_two_processes_train_what_one_trains(inputs: Path, tmp_path: Path, method: str, packed: bool) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    changes = {**SMALL, "method": method, "shared_prefix": packed}
    expected = train(job(inputs, one, **{**changes, "micro_batch_size": 4}))[0].to_json()
    two.mkdir()
    write_job(two / "job.json", job(inputs, two, **changes))
    call_together(train_as_worker, *((str(two / "job.json"), rank, str(two / "rendezvous")) for rank in range(2)))
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


def test_what_fits_on_one_gpu_is_not_split_and_what_cannot_be_shared_is_refused(inputs: Path, tmp_path: Path) -> None:
    def chosen(gpu_bytes: int | None, **changes: Any) -> str:
        return choose_strategy(job(inputs, tmp_path, **{**SMALL, **changes}), 2, gpu_bytes)[0]

    assert chosen(None) == "ddp", "on the CPU"
    # a base of 99,648 parameters: 400 kB in 32 bits, and three times as much to train all of it
    assert (chosen(600_000, method="prompt"), chosen(400_000, method="prompt")) == ("ddp", "fsdp2")
    assert (chosen(2_500_000, method="full"), chosen(1_500_000, method="full")) == ("ddp", "fsdp2")
    assert chosen(2_500_000, method="qlora") == "ddp", "four bits need not be split there"
    with pytest.raises(FindingsError, match="8 or 10") as error:
        chosen(1, batch_size=9, micro_batch_size=3, method="qlora")
    assert [f.rule for f in error.value.findings] == ["training.batch_over_workers", "training.four_bit_sharded"]
