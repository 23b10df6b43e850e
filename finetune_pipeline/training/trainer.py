"""TRL's SFTTrainer with a token-weighted loss over packed or padded batches, and verified checkpoints."""

import contextlib
import functools
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState
from trl import SFTTrainer

from finetune_pipeline import progress
from finetune_pipeline.faults import Diverged
from finetune_pipeline.models.model_files import ADAPTER_WEIGHTS
from finetune_pipeline.reporting import say
from finetune_pipeline.training import checkpoints, history
from finetune_pipeline.training.fused import token_losses
from finetune_pipeline.training.packing import logits_to_learn

_LOG_LINES = 20
"""Number of log lines with the loss per training."""


@dataclass
class Meter:
    """Adds up the tokens and time of training steps, without validation and saving. tokens: computed ones, after packing;
    learned: tokens with loss."""

    tokens: int = 0
    learned: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    _began: tuple[float, float] | None = None

    def add(self, batch: dict[str, Any]) -> None:
        """Count a forward and backward pass on `batch` that begins now; the first of an optimiser step starts the clocks."""
        self.tokens += batch["position_ids" if "position_ids" in batch else "input_ids"].numel()
        self.learned += batch["labels"].numel()
        self._began = self._began or (time.perf_counter(), time.process_time())

    def end_step(self) -> None:
        """Add the time since the first pass of the optimiser step, and stop the clocks."""
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began[0]
            self.cpu_seconds += time.process_time() - self._began[1]
            self._began = None

    def facts(self) -> dict[str, object]:
        """Return the sums, and tokens per second."""
        return {
            "tokens": self.tokens,
            "learned": self.learned,
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "tokens_per_second": round(self.tokens / self.seconds, 1) if self.seconds else 0.0,
        }


class VerifiedCheckpoints(Trainer):
    """A trainer whose checkpoints are marked as complete, with the digests of the job and of their files."""

    job_digest: str

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        root = Path(str(self.args.output_dir))
        folder = root / f"checkpoint-{self.state.global_step}"
        best = f"checkpoint-{self.state.best_global_step}" if self.state.best_global_step else None
        Trainer._save_checkpoint(self, model, trial)  # TRL's adds a model card, which asks the hub
        self.accelerator.wait_for_everyone()
        if best is not None and (root / best).exists():
            self.state.best_model_checkpoint = str(root / best)
        if self.accelerator.is_main_process:
            finished = self.control.should_training_stop or self.state.global_step >= self.state.max_steps
            checkpoints.mark_complete(folder, self.job_digest, best, finished)
        self.accelerator.wait_for_everyone()  # no process continues before the checkpoint is complete


class TokenTrainer(VerifiedCheckpoints, SFTTrainer):
    """Trainer whose loss is the sum of the learned tokens' cross-entropies (float32), divided by their number in the optimiser
    step. All tokens have equal weight, regardless of their batch and process; the same holds for validation."""

    def __init__(self, *args: Any, job_digest: str, autocast: torch.dtype | None = None, **kwargs: Any) -> None:
        """autocast: the dtype of a float32 model's matrix products, in training and validation."""
        self.job_digest, self.autocast = job_digest, autocast
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = True  # compute_loss itself divides by the step's number of tokens
        self.meter = Meter()
        # of each pass of this optimiser step: the summed loss, and the ids of its rows
        self._step_losses: list[tuple[torch.Tensor, list[str]]] = []

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], torch.Tensor | int | None]:
        batches, _ = super().get_batch_samples(*args, **kwargs)
        learned = torch.tensor(sum(batch["labels"].numel() for batch in batches), device=self.args.device)
        return batches, self.accelerator.reduce(learned)

    def training_step(self, model: Any, inputs: dict[str, object], *args: Any, **kwargs: Any) -> torch.Tensor:
        self.meter.add(inputs)
        loss: torch.Tensor = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[no-untyped-call]
        return loss

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        self._end_step()
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _end_step(self) -> None:
        """Read the losses of an optimiser step, the only time that training waits for the device. Raises Diverged before
        anything is logged or saved."""
        if not self._step_losses:
            return
        passes, self._step_losses = self._step_losses, []
        finite = torch.stack([loss for loss, _ in passes]).isfinite().tolist()
        self.meter.end_step()
        row_ids = [ids for is_finite, (_, ids) in zip(finite, passes, strict=True) if not is_finite]
        if row_ids:
            raise Diverged(self.state.global_step, list(itertools.chain.from_iterable(row_ids)))

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        losses = self._losses(model, inputs)
        total = losses.sum()
        self._step_losses.append((total.detach(), list(inputs["row_ids"])))
        loss = total / (num_items_in_batch if num_items_in_batch is not None else losses.numel())
        loss = loss * self.accelerator.num_processes  # gradients are averaged over the processes, but must be summed
        return (loss, {}) if return_outputs else loss

    def _losses(self, model: Any, batch: dict[str, Any]) -> torch.Tensor:
        cast = torch.autocast(self.args.device.type, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        with cast:
            logits = logits_to_learn(model, batch)
        return token_losses(logits, batch["labels"])

    def validation_loss(self) -> float:
        """Return the mean cross-entropy of all learned tokens of the validation rows, in nats."""
        assert self.model is not None
        self.model.eval()
        sums_by_row: dict[str, tuple[float, int]] = {}
        with torch.no_grad():
            for batch in self.get_eval_dataloader():
                losses = self._losses(self.model, self._prepare_inputs(batch)).double()
                sums = torch.stack([part.sum() for part in losses.split(batch["learned"])]).tolist()
                if not all(map(math.isfinite, sums)):
                    raise Diverged(self.state.global_step, list(batch["row_ids"]))
                sums_by_row |= zip(batch["row_ids"], zip(sums, batch["learned"], strict=True), strict=True)
        if self.accelerator.num_processes > 1:
            # Accelerate repeats rows to give all processes equally many batches
            sums_by_row = {row: sums for part in gather_object([sums_by_row]) for row, sums in part.items()}
        return math.fsum(total for total, _ in sums_by_row.values()) / sum(tokens for _, tokens in sums_by_row.values())

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Compute and log the validation loss, and call the callbacks."""
        metrics = {"eval_loss": self.validation_loss()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """Save a full model under its tensor names in memory. The base's files may have other names, which loading a checkpoint
        would ignore."""
        model: Any = self.model
        is_full_model = isinstance(model, PreTrainedModel)
        if is_full_model:
            model.save_pretrained = functools.partial(model.save_pretrained, save_original_format=False)
        try:
            super()._save(*args, **kwargs)
        finally:
            if is_full_model:
                del model.save_pretrained


def load_finished(trainer: TokenTrainer, latest: Path, best: Path) -> None:
    """Restore the trainer as after its training: state of the `latest` checkpoint, weights of the `best`."""
    from peft import PeftModel, set_peft_model_state_dict
    from safetensors.torch import load_file

    trainer.state = TrainerState.load_from_json(str(latest / "trainer_state.json"))
    if isinstance(trainer.model, PeftModel):
        set_peft_model_state_dict(trainer.model, load_file(best / ADAPTER_WEIGHTS))
    else:
        trainer._load_from_checkpoint(str(best))


class ProgressCallback(TrainerCallback):
    """Writes the history, reports progress, and makes the trainer evaluate and save the last step."""

    def __init__(self, stage: str, history_file: Path | None) -> None:
        """history_file: None in a process that does not report."""
        self.stage, self.history_file = stage, history_file
        self.trained_from = time.monotonic()
        self.first_step = 0
        self.on_saved: Callable[[], None] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trained_from = time.monotonic()
        self.first_step = state.global_step
        if state.best_model_checkpoint:  # resumed on another machine, it has another path
            state.best_model_checkpoint = str(Path(args.output_dir) / Path(state.best_model_checkpoint).name)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.on_saved is not None:
            self.on_saved()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        entries = history.entries_of(state.log_history[-1:])
        if self.history_file is None or not entries:
            return
        (logged,) = entries
        history.append(self.history_file, logged)
        total_steps = state.max_steps or 0
        steps_done = state.global_step - self.first_step
        if steps_done <= 0:
            self.trained_from = time.monotonic()  # the validation before training is not a step
        elapsed = time.monotonic() - self.trained_from
        seconds_left = elapsed / steps_done * (total_steps - state.global_step) if steps_done > 0 else None
        numbers = {"of": total_steps, **{k: v for k, v in logged.to_json().items() if k != "epoch"}}
        if seconds_left is not None:
            numbers["seconds_left"] = round(seconds_left, 1)
        progress.tell(self.stage, "validation" if logged.eval_loss is not None else "", **numbers)
        if logged.eval_loss is not None:
            moment = f"step {state.global_step} of {total_steps}" if state.global_step else "before training"
            say(f"{self.stage}: {moment}, validation loss {logged.eval_loss:.4f}")
        elif state.global_step % max(1, math.ceil(total_steps / _LOG_LINES)) == 0:
            remaining_time = f", about {seconds_left:.0f} s left" if seconds_left is not None else ""
            say(f"{self.stage}: step {state.global_step} of {total_steps}, loss {logged.loss:.4f}{remaining_time}")
