"""Full fine-tuning: every weight, in float32."""

from __future__ import annotations

from typing import Any

from finetune_pipeline.spec.methods.base import COMPARISON, Added, Default, Kind, Method, Settings, Shape, register


@register
class Full(Method):
    """Every weight."""

    name, order = "full", 30
    trains = "every weight"
    gives = "a model"
    when = (
        "low-rank training has stopped improving, the data are many, and memory is ample (16 bytes a parameter); "
        "forgets most easily"
    )
    holds = "float32"  # its steps are smaller than what 16 bits can tell apart
    trains_inputs = True
    smaller = "lora"
    on_quantized = "full fine-tuning trains the weights, and those are stored in too few bits to be trained"
    defaults = {"learning_rate": Default(1e-5, f"47.2% on GSM8K in {COMPARISON}")}  # noqa: RUF012
    kind = Kind(
        "full",
        r"^(?!.*(lora_|prompt_embeddings))",
        "tensors, all of them the model's own",
        "trained weights",
        "stored model",
        "The trained weights, taken over without a merge",
        adapter=False,
        stored_whole=True,
    )

    def trainable(self, settings: Settings, shape: Shape) -> int:
        return shape.parameters

    def kept_bytes(self, settings: Settings, shape: Shape, tokens: int, width: int) -> int:
        """What each linear layer reads; under autocast each of those that read the same has a copy of its own."""
        heads = shape.heads * shape.head_dim
        shared = 1 if width == 4 else 3, 1 if width == 4 else 2
        return tokens * width * (shape.hidden * shared[0] + heads + shape.hidden * shared[1] + shape.inner)

    def keeps_attention(self, settings: Settings, shape: Shape) -> bool:
        return True

    def add(self, model: Any, tokenizer: Any, settings: Settings, task_text: str) -> Added:
        return model.requires_grad_(True), {}
