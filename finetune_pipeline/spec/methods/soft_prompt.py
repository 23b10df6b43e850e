"""Soft prompts, shared by prompt and prefix tuning. PEFT stores and saves them; this module adds their initialisation and
packed batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.methods.base import Added, Config, Method

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings

_ALL_SLIDING = ("mistral", "mixtral", "phi3", "starcoder2")
"""Architectures whose layers are all alike: a sliding window in config.json applies to every layer."""


class SoftPrompt(Method):
    """Trained virtual tokens before every row; the section has the method's name."""

    def check(self, training: Any) -> list[Finding]:
        """Check that an initial text is given if and only if it is used."""
        section = getattr(training, self.section)
        if (section.init == "text") == (section.text is not None):
            return []
        key = f"training.{self.section}"
        message, fix = (
            ("init is `text`, but there is no text", f"add {key}.text, or set {key}.init: task")
            if section.text is None
            else (f"the text is not used with init: {section.init}", f"set {key}.init: text, or remove the text")
        )
        return [Finding("spec.soft_prompt_options", "error", f"task.yaml: {key}.text", message, fix)]

    def check_base(self, training: Any, config: Config, layers: Callable[[], set[str]]) -> list[Finding]:
        """Warn if no layer lets an answer behind a long row see the virtual tokens."""
        window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
        if layer_types := config.get("layer_types"):
            all_sliding = set(layer_types) == {"sliding_attention"}
        else:
            all_sliding = config.get("model_type") in _ALL_SLIDING
        if not window or not all_sliding or training.max_tokens <= window:
            return []
        message = f"every layer sees {window} tokens at most: behind longer rows the virtual tokens are out of sight"
        fix = f"set training.max_tokens: {window} or less, or use method: lora"
        return [Finding("training.soft_prompt_window", "warning", "task.yaml: training.method", message, fix)]

    def first_text(self, settings: TrainingSettings, task_text: str) -> str | None:
        """Return the text that initialises a soft prompt; None if no text does. Raises JobError without the wanted task_text."""
        section = getattr(settings, self.section)
        if section.init == "text":
            return str(section.text)
        if section.init != "task":
            return None
        if not task_text:
            raise JobError(
                f"training.{self.section}.init is `task`, but the examples have neither a system prompt nor labels\n"
                f"fix: set training.{self.section}.init: text and training.{self.section}.text"
            )
        return task_text

    def for_packed_batches(self, model: Any, settings: TrainingSettings, text: str | None) -> Added:
        """Return the model, which then also accepts packed batches, and facts about its initial values."""
        accept_packed(model, self.virtual_tokens(settings))
        section = getattr(settings, self.section)
        return model, {"virtual_tokens": section.tokens, "init": section.init, "text": text}


def repeated(ids: Sequence[int], number: int) -> list[int]:
    """Repeat the tokens, or cut them off, to get exactly `number` tokens."""
    return (list(ids) * math.ceil(number / len(ids)))[:number]


def accept_packed(model: Any, virtual_tokens: tuple[int, int]) -> None:
    """Make a PEFT model's forward accept packed batches (argument ``shared_prefix``), which contain the soft prompt once.
    All other calls use PEFT's own forward, which repeats it for every row and rebuilds the mask."""
    import torch

    unpacked_forward = model.forward
    model.virtual_tokens = virtual_tokens
    in_sequence = virtual_tokens[0] > 0

    def forward(*args: Any, shared_prefix: Any = None, **kwargs: Any) -> Any:
        if shared_prefix is None:
            return unpacked_forward(*args, **kwargs)
        base = model.get_base_model()
        if not in_sequence:
            return base(*args, cache=model.get_prompt(1), shared_prefix=shared_prefix, **kwargs)
        embeddings = model.word_embeddings(kwargs.pop("input_ids"))
        embeddings = torch.cat([model.get_prompt(1).to(embeddings.dtype), embeddings], 1)
        return base(*args, inputs_embeds=embeddings, shared_prefix=shared_prefix, **kwargs)

    model.forward = forward
