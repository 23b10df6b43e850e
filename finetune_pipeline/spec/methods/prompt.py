"""Prompt tuning (Lester et al. 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from finetune_pipeline.spec.methods.base import COMPARISON, Added, Default, Kind, ModelShape, register
from finetune_pipeline.spec.methods.soft_prompt import SoftPrompt, repeated
from finetune_pipeline.spec.outputs import Section

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings


class PromptTuningSpec(Section):
    """Trained embeddings put before every input (Lester et al. 2021); method prompt."""

    tokens: int = Field(100, ge=1, le=4096, description="Number of virtual tokens.")
    init: Literal["task", "text", "vocabulary", "random"] = Field(
        "task",
        description="Initial embeddings: of the system prompt and labels, of `text`, of vocabulary tokens, or random.",
    )
    text: str | None = Field(None, min_length=1, description="With init: text.")


@register
class Prompt(SoftPrompt):
    """Embeddings before every input."""

    name, order = "prompt", 50
    trains = "embeddings before every input"
    gives = "a file of some hundred KiB"
    when = "as for prefix, but even smaller, or for servers of plain models only: the vectors can become tokens"
    section = "prompt"
    options = PromptTuningSpec
    kind = Kind(
        "prompt",
        r"^prompt_embeddings$",
        "tensor, the trained prompt",
        "prompt under PEFT",
        "plain model with added tokens",
        "A plain model whose added tokens are the trained prompt",
    )
    defaults = {
        "learning_rate": Default(
            3e-3,
            f"between 1e-3, which gave 34.3% on GSM8K in {COMPARISON} initialised from vocabulary tokens (1e-4 and random: 5.7%), "
            "and the optimum of small bases and few steps: after one epoch of ticket_triage (93 steps, 135M parameters) "
            "validation loss 0.71 with 1e-3, 0.50 with 3e-3, 0.47 with 1e-2",
        )
    }

    def _section(self, settings: TrainingSettings) -> PromptTuningSpec:
        section: PromptTuningSpec = getattr(settings, self.section)
        return section

    def virtual_tokens(self, settings: TrainingSettings) -> tuple[int, int]:
        return self._section(settings).tokens, 0

    def trainable(self, settings: TrainingSettings, shape: ModelShape) -> int:
        """Return tokens x hidden width (Lester et al. 2021, section 2)."""
        return self._section(settings).tokens * shape.hidden

    def add(self, model: Any, tokenizer: Any, settings: TrainingSettings, task_text: str) -> Added:
        import torch
        from peft import PromptTuningConfig, get_peft_model

        text, section = self.first_text(settings, task_text), self._section(settings)
        config = PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=section.tokens,
            prompt_tuning_init="SAMPLE_VOCAB" if section.init == "vocabulary" else "RANDOM",
        )
        peft: Any = get_peft_model(model, config)
        if text:
            ids = repeated(tokenizer(text, add_special_tokens=False)["input_ids"], section.tokens)
            with torch.no_grad():
                rows = peft.word_embeddings(torch.tensor(ids, device=model.device))
                peft.prompt_encoder["default"].embedding.weight.copy_(rows.float())
        return self.for_packed_batches(peft, settings, text)
