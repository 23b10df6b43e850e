"""QLoRA (Dettmers et al. 2023), in two phases: on the base in 4 bits, then on the base as it is served.

An adapter trained on 4-bit weights also corrects their rounding errors. Merged into the unquantized base, these corrections
are errors. Large models are hardly affected; small ones lose much of the training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.methods.base import Config, Default, register
from finetune_pipeline.spec.methods.low_rank import LowRank

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Keys of config.json with the number of experts."""


@register
class QLora(LowRank):
    """Low-rank matrices on a base in 4 bits."""

    name, order = "qlora", 10
    trains = "low-rank matrices for every linear layer; the base is stored in 4 bits"
    gives = "adapter, merged into a model"
    when = "**start here.** Memory is short, or you are not sure"
    holds = "four_bit"
    smaller = None
    on_quantized = "qlora quantizes the base itself, and merges into the unquantized one"
    defaults = {
        "learning_rate": Default(
            5e-4,
            "for bases well under 1B parameters and a few hundred steps; the QLoRA paper uses 2e-4 for 7B and 13B, 1e-4 "
            "above (Dettmers et al. 2023)",
        ),
        "unquantized_epochs": Default(
            1.0,
            "measured with the bundled 135M model: validation loss 0.38 on the 4-bit base, 0.63 after moving to the "
            "unquantized one, 0.23 after one epoch there",
        ),
    }

    def check_base(self, training: Any, config: Config, layers: Callable[[], set[str]]) -> list[Finding]:
        if not any((config.get(key) or 0) > 1 for key in _EXPERTS):
            return super().check_base(training, config, layers)
        message = f"the experts of {config.get('model_type')}, most of its weights, cannot be stored in 4 bits"
        fix = "set training.method: lora, which trains its attention layers"
        return [Finding("training.experts", "error", "task.yaml: training.method", message, fix)]

    def phases(self, settings: TrainingSettings) -> list[TrainingSettings]:
        if not settings.unquantized_epochs:
            return [settings]
        return [settings, settings.changed(method="lora", epochs=settings.unquantized_epochs)]

    def adopt(self, settings: TrainingSettings) -> TrainingSettings:
        return super().adopt(settings).changed(unquantized_epochs=0.0)
