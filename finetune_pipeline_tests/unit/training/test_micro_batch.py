"""A pass that does not fit into memory is halved, and the training is the one that was declared with the smaller micro-batch."""

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finetune_pipeline.training import trainer
from finetune_pipeline.training.facts import MicroBatch
from finetune_pipeline.training.micro_batch import FILE, PassTooLarge
from finetune_pipeline.training.packing import logits_to_learn
from finetune_pipeline.training.sft import train
from finetune_pipeline.worker import entry
from finetune_pipeline_tests.unit.training.jobs import job

LORA: dict[str, Any] = {"method": "lora", "epochs": 2, "evals_per_epoch": 2}


class Memory:
    """Memory for at most `rows` rows of a training pass, or twice as many of a validation pass (`validating`), from the pass
    number `since` on: more fail as on the CPU.

    Attributes:
        passes: The rows of every training pass that fitted.
        models: The model of each attempt.
    """

    def __init__(self, rows: int, since: int = 0, *, validating: bool = False) -> None:
        self.rows, self.since, self.validating = 2 * rows if validating else rows, since, validating
        self.passes, self.models = list[int](), list[weakref.ref[Any]]()

    def __call__(self, model: Any, batch: dict[str, Any]) -> Any:
        rows = len(batch["row_ids"])
        if not self.models or self.models[-1]() is not model:
            assert all(earlier() is None for earlier in self.models), "the failed attempt still fills the memory"
            self.models.append(weakref.ref(model))
        if model.training != self.validating and rows > self.rows and len(self.passes) >= self.since:
            torch.empty(1 << 50)
        if model.training:
            self.passes.append(rows)
        return logits_to_learn(model, batch)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def set_limit(rows: int, since: int = 0, *, validating: bool = False) -> Memory:
        memory = Memory(rows, since, validating=validating)
        monkeypatch.setattr(trainer, "logits_to_learn", memory)
        return memory

    yield set_limit


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize("validating", [False, True])
def test_halved_at_the_first_step_it_ends_with_the_bits_of_the_smaller_micro_batch(
    inputs: Path, tmp_path: Path, limit: Any, validating: bool
) -> None:
    expected, _ = train(job(inputs, tmp_path / "small", **LORA, micro_batch_size=2))
    assert (
        expected.micro_batch.to_json() == {"declared": 2, "used": 2} and not (tmp_path / "small/work" / FILE).exists()
    )
    memory = limit(2, validating=validating)
    facts, measured = train(job(inputs, tmp_path / "halved", **LORA, micro_batch_size=8))
    assert facts.micro_batch.to_json() == {"declared": 8, "used": 2} and measured["resumed_from"] is None
    assert len(memory.models) == 3 and set(memory.passes) == {2}
    assert (facts.steps, facts.history) == (expected.steps, expected.history)
    weights, same = adapter(tmp_path / "small"), adapter(tmp_path / "halved")
    assert weights.keys() == same.keys() and all(torch.equal(weights[name], same[name]) for name in weights)


def test_halved_later_it_goes_on_from_its_checkpoint_with_the_same_gradients(
    inputs: Path, tmp_path: Path, limit: Any
) -> None:
    expected, _ = train(job(inputs, tmp_path / "small", **LORA, dropout=0.0, micro_batch_size=2))
    memory = limit(2, since=8)
    facts, measured = train(job(inputs, tmp_path / "halved", **LORA, dropout=0.0, micro_batch_size=4))
    assert facts.micro_batch.to_json() == {"declared": 4, "used": 2} and measured["resumed_from"] == "checkpoint-4"
    assert memory.passes == [4] * 8 + [2] * (4 * (facts.steps - 4)), "a step has 8 rows before and after"
    assert [e.step for e in facts.history] == [e.step for e in expected.history]
    for before, after in zip(expected.history, facts.history, strict=True):
        assert (before.loss is None, before.eval_loss is None) == (after.loss is None, after.eval_loss is None)
        assert (before.loss or before.eval_loss) == pytest.approx(after.loss or after.eval_loss, rel=1e-4)
    torch.testing.assert_close(adapter(tmp_path / "small"), adapter(tmp_path / "halved"), rtol=0.02, atol=2e-4)


def test_a_killed_training_keeps_the_halved_micro_batch_and_another_job_does_not(
    inputs: Path, tmp_path: Path, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = tmp_path / "undisturbed"
    limit(2)
    expected, _ = train(job(inputs, undisturbed, **LORA))
    memory = limit(2)
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr(trainer.TokenTrainer, "_save_checkpoint", kill_after(memory, 25))
        train(job(inputs, tmp_path, **LORA))
    memory = limit(99)  # there would be room again
    facts, measured = train(job(inputs, tmp_path, **LORA))
    assert facts.micro_batch == expected.micro_batch == MicroBatch(declared=4, used=2)
    assert measured["resumed_from"] is not None and set(memory.passes) == {2}
    weights, same = adapter(undisturbed), adapter(tmp_path)
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    other, _ = train(job(inputs, tmp_path, **LORA | {"epochs": 1}))
    assert other.micro_batch.to_json() == {"declared": 4, "used": 4}


def kill_after(memory: Memory, passes: int) -> Any:
    """A method that saves checkpoints until so many passes have run, and is then interrupted."""
    save = trainer.TokenTrainer._save_checkpoint

    def save_or_die(self: Any, *args: Any) -> None:
        if len(memory.passes) >= passes:
            raise KeyboardInterrupt
        save(self, *args)

    return save_or_die


def test_a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_change(
    inputs: Path, tmp_path: Path, limit: Any
) -> None:
    limit(0)
    result = job(inputs, tmp_path, **LORA)
    with pytest.raises(PassTooLarge) as error:
        train(result)
    code, kind, message = entry.classify_error(error.value, result)
    assert (code, kind) == (75, "memory")
    assert (
        message.startswith("out of memory: 1 row at once does not fit into memory: ") and "allocate memory" in message
    )
    assert "fix: set training.gradient_checkpointing: true (now auto)" in message
