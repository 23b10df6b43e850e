"""Prefix tuning (Li and Liang 2021), without the reparameterization network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.methods.base import COMPARISON, Added, Config, Default, Kind, ModelShape, register
from finetune_pipeline.spec.methods.soft_prompt import SoftPrompt, repeated
from finetune_pipeline.spec.outputs import Section

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings

_OTHER_METHODS = "use another method: lora, prompt or full"


class PrefixSpec(Section):
    """Keys and values put before every layer's own (Li and Liang 2021); method prefix."""

    tokens: int = Field(50, ge=1, le=4096, description="Number of virtual tokens.")
    init: Literal["task", "text", "random"] = Field(
        "task", description="Initial keys and values: from the task's system prompt, from `text`, or random."
    )
    text: str | None = Field(None, min_length=1, description="With init: text.")


@register
class Prefix(SoftPrompt):
    """Keys and values before every layer's own."""

    name, order = "prefix", 40
    trains = "keys and values before every layer's own"
    gives = "a file of some MiB"
    when = "many tasks on one base, served together"
    section = "prefix"
    options = PrefixSpec
    checkpointing = False
    kind = Kind(
        "prefix",
        r"^prompt_embeddings$",
        "tensor, the trained prefix",
        "prefix under PEFT",
        "base with the prefix",
        "The prefix as an adapter on the base",
        plain=False,
    )
    defaults = {
        "learning_rate": Default(
            5e-3, f"41.6% on GSM8K in {COMPARISON} with 50 tokens initialised from a real text, 1e-3: 18.6%"
        )
    }

    def check_base(self, training: Any, config: Config, layers: Callable[[], set[str]]) -> list[Finding]:
        unsupported = sorted({*(config.get("layer_types") or [])} - {"full_attention", "sliding_attention"})
        if unsupported:
            message = f"some layers have neither full nor sliding attention ({', '.join(unsupported)}), which prefix tuning needs"
            return [Finding("training.prefix_layers", "error", "task.yaml: training.method", message, _OTHER_METHODS)]
        window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
        tokens = training.prefix.tokens
        if not window or tokens < window:
            return super().check_base(training, config, layers)
        message = f"a prefix of {tokens} tokens does not fit into the sliding window of {window} tokens of some layers"
        fix = f"set training.prefix.tokens: {window // 2} or less, or use method: prompt"
        return [Finding("training.prefix_window", "error", "task.yaml: training.prefix.tokens", message, fix)]

    def _section(self, settings: TrainingSettings) -> PrefixSpec:
        section: PrefixSpec = getattr(settings, self.section)
        return section

    def virtual_tokens(self, settings: TrainingSettings) -> tuple[int, int]:
        return 0, self._section(settings).tokens

    def trainable(self, settings: TrainingSettings, shape: ModelShape) -> int:
        """Return tokens x layers x keys and values (Li and Liang 2021, section 4.2)."""
        return self._section(settings).tokens * shape.layers * 2 * shape.key_heads * shape.head_dim

    def add(self, model: Any, tokenizer: Any, settings: TrainingSettings, task_text: str) -> Added:
        from peft import PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_past_key_values

        text, number = self.first_text(settings, task_text), self._section(settings).tokens
        peft: Any = get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=number))
        # without a text, some token still shows the shape of keys and values
        ids = tokenizer(text or "a", add_special_tokens=False)["input_ids"]
        if tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.eos_token_id:
            ids = [tokenizer.bos_token_id, *ids]
        initial_states = _keys_and_values(model, repeated(ids, number))
        config = peft.active_peft_config
        shape = (1, config.num_attention_heads, number, config.token_dim // config.num_attention_heads)
        if any(states.shape != shape for layer in initial_states for states in layer):
            raise JobError(
                f"the keys and values of {model.config.model_type} do not have the number of heads and the width that its "
                f"config.json gives, which prefix tuning needs\nfix: {_OTHER_METHODS}"
            )
        if text:
            initialize_kv_prefix_from_past_key_values(peft, past_key_values=initial_states)
        return self.for_packed_batches(peft, settings, text)


def _keys_and_values(base: Any, ids: Sequence[int]) -> list[tuple[Any, Any]]:
    """Return each base layer's (keys, values) for a text, of shape [1, heads, tokens, d], in float32."""
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    cache = DynamicCache(config=base.config)
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        raise JobError(
            f"{base.config.model_type} has layers that keep other states than keys and values, which prefix tuning trains\n"
            f"fix: {_OTHER_METHODS}"
        )
    was_training = base.training
    base.eval()
    with torch.no_grad():
        base(input_ids=torch.tensor([list(ids)], device=base.device), cache=cache, use_cache=True, logits_to_keep=1)
    base.train(was_training)
    layers: list[Any] = cache.layers
    return [(layer.keys.float(), layer.values.float()) for layer in layers]
