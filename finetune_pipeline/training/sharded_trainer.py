"""Full fine-tuning with weights, gradients and optimiser states split over several processes (FSDP2).

Checkpoints are whole all the same: gathered and written by the first process, and given out again by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from finetune_pipeline.models.identity import weight_files
from finetune_pipeline.training import ranks
from finetune_pipeline.training.trainer import TokenTrainer


class ShardedTrainer(TokenTrainer):
    """A TokenTrainer whose model was given to :func:`ranks.shard` with everything trainable."""

    _weights: dict[str, torch.Tensor]
    _optimizer: dict[str, Any]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._weights = ranks.whole_weights(self.model)
        self._optimizer = ranks.whole_optimizer(self.model, self._plain_optimizer())
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._weights, self._optimizer = {}, {}

    def _plain_optimizer(self) -> Any:
        """torch's own, out of accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the gathered weights."""
        self._save(output_dir, state_dict=self._weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        torch.save(self._optimizer, Path(output_dir) / "optimizer.pt")
        assert self.lr_scheduler is not None
        torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights: dict[str, torch.Tensor] = {}
        if self.among.first:
            for file in weight_files(Path(resume_from_checkpoint)):
                weights |= load_file(file)
        ranks.put_weights(self.model, weights)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        state = torch.load(folder / "optimizer.pt", weights_only=True) if self.among.first else {}
        ranks.put_optimizer(self.model, self._plain_optimizer(), state)
        assert self.lr_scheduler is not None
        self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", weights_only=True))
