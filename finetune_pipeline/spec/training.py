"""The section of task.yaml about training. Settings that depend on the method: :mod:`finetune_pipeline.spec.method_defaults`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from finetune_pipeline.spec.method_defaults import Method, by_method, described, largest_micro_batch
from finetune_pipeline.spec.outputs import Section


class LoraSpec(Section):
    """Low-rank adapter shape (Hu et al. 2021); methods qlora and lora."""

    r: int = Field(16, ge=1, le=1024)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    rslora: bool = Field(False, description="Scale by alpha / sqrt(r) instead of alpha / r (Kalajdzievski 2023).")
    dora: bool = Field(False, description="Learn magnitude and direction of the weights separately (Liu et al. 2024).")
    init: Literal["default", "gaussian", "orthogonal"] = Field(
        "default", description="Initial values; `default` and `gaussian` start without any change to the base."
    )


class PrefixSpec(Section):
    """Keys and values put before every layer's own (Li and Liang 2021); method prefix."""

    tokens: int = Field(50, ge=1, le=4096, description="Number of virtual tokens.")
    init: Literal["task", "text", "random"] = Field(
        "task",
        description="Initial keys and values: from the task's system prompt, from `text`, or random.",
    )
    text: str | None = Field(None, min_length=1, description="With init: text.")


class PromptTuningSpec(Section):
    """Trained embeddings put before every input (Lester et al. 2021); method prompt."""

    tokens: int = Field(100, ge=1, le=4096, description="Number of virtual tokens.")
    init: Literal["task", "text", "vocabulary", "random"] = Field(
        "task",
        description="Initial embeddings: of the system prompt and labels, of `text`, of vocabulary tokens, or random.",
    )
    text: str | None = Field(None, min_length=1, description="With init: text.")


class TrainingSpec(Section):
    """How the model is trained. Settings that are unset take the method's own value while the spec is built."""

    method: Method = Field("qlora", description="qlora, lora, full, prefix or prompt (docs/training.md).")
    epochs: float = Field(2.0, gt=0, le=50, description="Passes over the training split; more than 3 warns.")
    unquantized_epochs: float = Field(
        default_factory=by_method("unquantized_epochs"),
        ge=0,
        le=50,
        description=described(
            "unquantized_epochs",
            "qlora: further epochs on the unquantized base.",
        ),
    )
    learning_rate: float = Field(
        default_factory=by_method("learning_rate"), gt=0, lt=1, description=described("learning_rate", "Peak value.")
    )
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        default_factory=by_method("scheduler"), description=described("scheduler")
    )
    warmup_share: float = Field(
        default_factory=by_method("warmup_share"),
        ge=0,
        lt=1,
        description=described("warmup_share", "Share of the steps."),
    )
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(
        default_factory=by_method("batch_size"), ge=1, description=described("batch_size", "Rows per optimiser step.")
    )
    micro_batch_size: int = Field(
        default_factory=largest_micro_batch,
        ge=1,
        description="Rows per forward pass; must divide batch_size. Unset: the largest divisor up to 8.",
    )
    max_tokens: int = Field(1024, ge=16, description="Longest example in tokens.")
    over_length: Literal["fail", "drop", "truncate_prompt"] = Field(
        "fail",
        description="Longer examples: `fail`, `drop`, or `truncate_prompt` (cut the start of the longest user text).",
    )
    evals_per_epoch: int = Field(2, ge=1, description="Validation passes and checkpoints per epoch.")
    patience: int = Field(3, ge=1, description="Validation passes without improvement before training stops.")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 where the hardware has it."
    )
    augment: bool = Field(
        False,
        description="Train on a perturbed copy of each row, too (see robustness); doubles an epoch.",
    )
    shared_prefix: bool = Field(True, description="Compute shared prefixes once per batch.")
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="About a third slower, far less memory. `auto`: for bases above 1B parameters, never with method "
        "prefix.",
    )
    lora: LoraSpec = LoraSpec()
    prefix: PrefixSpec = PrefixSpec()
    prompt: PromptTuningSpec = PromptTuningSpec()
