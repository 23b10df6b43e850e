"""Full fine-tuning: every weight, in float32."""

from typing import Any

from finetune_pipeline.spec.methods.base import COMPARISON, Added, Default, Kind, Method, ModelShape, Settings, register


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
    trains_inputs = True
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

    def trainable(self, settings: Settings, shape: ModelShape) -> int:
        return shape.parameters

    def kept_bytes(self, settings: Settings, shape: ModelShape, tokens: int, width: int) -> int:
        """Return the bytes of each linear layer's input; under autocast, layers with the same input have separate copies."""
        autocast = width == 2
        query_key_value = shape.hidden * (3 if autocast else 1)
        output = shape.heads * shape.head_dim
        gate_up = shape.hidden * (2 if autocast else 1)
        down = shape.inner
        return tokens * width * (query_key_value + output + gate_up + down)

    def keeps_attention(self, settings: Settings, shape: ModelShape) -> bool:
        return True

    def add(self, model: Any, tokenizer: Any, settings: Settings, task_text: str) -> Added:
        return model.requires_grad_(True), {}
