"""Full fine-tuning: every weight, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from finetune_pipeline.spec.methods.base import COMPARISON, Added, Default, Kind, Method, ModelShape, register

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings


@register
class Full(Method):
    """Every weight."""

    name, order = "full", 30
    trains = "every weight"
    gives = "a model"
    when = (
        "low-rank training has stopped improving, the data are many, and memory is ample (16 bytes per parameter); "
        "forgets most easily"
    )
    holds = "float32"  # its steps are smaller than the resolution of 16 bits
    smaller = "lora"
    on_quantized = "full fine-tuning trains the weights, but these have too few bits for training"
    defaults = {"learning_rate": Default(1e-5, f"47.2% on GSM8K in {COMPARISON}")}
    kind = Kind(
        "full",
        r"^(?!.*(lora_|prompt_embeddings))",
        "tensors, all of them part of the model",
        "trained weights",
        "stored model",
        "The trained weights, used without a merge",
        adapter=False,
    )

    def trainable(self, settings: TrainingSettings, shape: ModelShape) -> int:
        return shape.parameters

    def saved_widths(self, settings: TrainingSettings) -> tuple[float, float]:
        """Return also each linear layer's input, and the norms' inputs in float32."""
        return 14.0, 4.0

    def add(self, model: Any, tokenizer: Any, settings: TrainingSettings, task_text: str) -> Added:
        return model.requires_grad_(True), {}
