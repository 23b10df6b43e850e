"""Low-rank adapters, shared by qlora and lora."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from finetune_pipeline.faults import JobError
from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.methods.base import Added, Config, Kind, Method, ModelShape
from finetune_pipeline.spec.outputs import Section

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings

NOT_ADAPTED = ("lm_head", "embed_tokens", "embed_out")
"""Embeddings and output heads, which low-rank adapters do not change."""
LOW_RANK = Kind(
    "lora",
    r"lora_",
    "tensors, all of them low-rank",
    "adapter on the base",
    "merged model",
    "The adapter merged into the unquantized base",
)


class LoraSpec(Section):
    """Low-rank adapter shape (Hu et al. 2021); methods qlora and lora."""

    r: int = Field(16, ge=1, le=1024)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    rslora: bool = Field(False, description="Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023).")
    dora: bool = Field(False, description="Learn magnitude and direction of the weights separately (Liu et al. 2024).")


class LowRank(Method):
    """Low-rank matrices for the base's linear layers."""

    section = "lora"
    options = LoraSpec
    kind = LOW_RANK
    peft_task: ClassVar[str] = "CAUSAL_LM"

    def check(self, training: Any) -> list[Finding]:
        """Check the targets. The output head is excluded: many bases tie it to the embedding, and it is computed only for loss."""
        targets = getattr(training, self.section).target_modules
        problems = {}  # message: fix; a layer that is named twice is reported once
        if targets == []:
            message = "the list is empty: no layer would be trained"
            problems[message] = "write all-linear, or name layers such as q_proj and v_proj"
        for name in targets if isinstance(targets, list) else ():
            if name.rpartition(".")[2] in NOT_ADAPTED:
                message = f"{name!r} is the embedding or the output head, which adapters here do not change"
                problems[message] = f"remove {name}; method: full trains everything"
        place = f"task.yaml: training.{self.section}.target_modules"
        return [Finding("spec.target_modules", "error", place, message, fix) for message, fix in problems.items()]

    def check_base(self, training: Any, config: Config, layers: Callable[[], set[str]]) -> list[Finding]:
        """Check that every named layer exists; PEFT matches all modules whose names end with it."""
        targets = getattr(training, self.section).target_modules
        if isinstance(targets, str):
            return []
        names = layers()
        valid = {*names, *NOT_ADAPTED}  # `check` reports the latter
        missing = [name for name in targets if name.rpartition(".")[2] not in valid and not re.search(r"[*\\]", name)]
        if not missing:
            return []
        message = f"the base model ({config.get('model_type')}) has no linear layers named {', '.join(missing)}"
        fix = f"choose from {', '.join(sorted(names))}, or write all-linear"
        place = f"task.yaml: training.{self.section}.target_modules"
        return [Finding("training.target_modules", "error", place, message, fix)]

    def trainable(self, settings: TrainingSettings, shape: ModelShape) -> int:
        """Return r (in + out) per layer (Hu et al. 2021, section 4.1); with DoRA one more number per output (Liu et al. 2024,
        section 4.1)."""
        lora: LoraSpec = getattr(settings, self.section)
        layers = shape.targeted(lora.target_modules)
        matrices: int = sum(lora.r * (layer.fan_in + layer.fan_out) for layer in layers)
        magnitudes: int = sum(layer.fan_out for layer in layers) if lora.dora else 0
        return matrices + magnitudes

    def saved_widths(self, settings: TrainingSettings) -> tuple[float, float]:
        """Return also the adapted layers' inputs, with their dropout masks. DoRA keeps float32 copies for every layer."""
        lora: LoraSpec = getattr(settings, self.section)
        if lora.dora:
            return 40.0, 18.0
        return (10.0, 5.0) if lora.dropout else (7.0, 4.0)

    def add(self, model: Any, tokenizer: Any, settings: TrainingSettings, task_text: str) -> Added:
        """Return a PEFT model with float32 weights, without the output head, like PEFT's all-linear. Raises JobError if
        PEFT does not adapt these layers of this architecture."""
        from peft import LoraConfig, get_peft_model

        lora: LoraSpec = getattr(settings, self.section)
        targets: list[str] | str = lora.target_modules
        if targets == "all-linear":
            targets = _layers_outside_experts(model) or targets
        config = LoraConfig(
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            task_type=self.peft_task,
            target_modules=targets,
        )
        try:
            return get_peft_model(model, config), {}
        except ValueError as error:
            raise JobError(
                f"{model.config.model_type} cannot be trained like this: {error}\n"
                f"fix: name other layers in training.{self.section}.target_modules, or use another method"
            ) from error


def expert_blocks(names: Iterable[str]) -> set[str]:
    """Return the names of the modules with experts in a model with these weight names; adapters are added beside them."""
    return {name.split(".experts.")[0].rpartition(".")[2] for name in names if ".experts." in name}


def _layers_outside_experts(model: Any) -> list[str]:
    """Return the linear layers outside the blocks of experts, in a mixture of experts; empty for other models.
    Their experts are joined into one weight a layer, for which PEFT's adapters cannot be merged into the base."""
    from torch.nn import Linear

    blocks = expert_blocks(name for name, _ in model.named_parameters())
    if not blocks:
        return []
    names = [name for name, module in model.named_modules() if isinstance(module, Linear)]
    return sorted({name.rpartition(".")[2] for name in names if not blocks & set(name.split("."))} - {*NOT_ADAPTED})
