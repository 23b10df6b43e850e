"""The section of task.yaml on training. Settings that depend on the method: :mod:`finetune_pipeline.spec.methods`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, create_model

from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import by_method, largest_micro_batch
from finetune_pipeline.spec.outputs import Section, Seed
from finetune_pipeline.spec.trainers import OpenAiSection, RaySection, TogetherSection, TrainerSection

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


class RefineSpec(Section):
    """A second stage, on what people like and dislike (docs/preferences.md)."""

    method: Literal["none", "kto", "dpo"] = Field(
        "none", description="`kto`: thumbs on single answers; `dpo`: pairs of answers; `none`: no second stage."
    )
    beta: float = Field(0.1, gt=0, description="Higher: stay nearer to the first stage's model.")
    epochs: float = Field(1.0, gt=0, le=10, description="Passes over the preferences.")
    learning_rate: float = Field(1e-5, gt=0, lt=1, description="Ten times TRL's default, since an adapter is trained.")

    @property
    def is_on(self) -> bool:
        return self.method != "none"


class TrainingSettings(Section):
    """How the model is trained. Unset settings get the method's defaults when the spec is built."""

    method: MethodName = Field("qlora", description="A training method (`finetune docs training`).")
    trainer: str = Field("local", description="Where training runs: a name of the table of trainers below.")
    budget_usd: float | None = Field(
        None,
        gt=0,
        description="A hosted job is not bought if its estimate, with failed attempts at it and its endpoint, is higher or "
        "unknown. Unset: no limit.",
    )
    trainer_options: dict[str, Any] = Field(
        {}, description="Settings of a trainer from another package (`finetune docs training`)."
    )
    ray: RaySection = RaySection()
    openai: OpenAiSection = OpenAiSection()
    together: TogetherSection = TogetherSection()
    epochs: float = Field(2.0, gt=0, le=50, description="Passes over the training split; more than 3 warns.")
    unquantized_epochs: float = by_method(
        "unquantized_epochs", "qlora: further epochs on the unquantized base.", ge=0, le=50
    )
    learning_rate: float = by_method("learning_rate", "Peak value.", gt=0, lt=1)
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = by_method("scheduler")
    warmup_share: float = by_method("warmup_share", "Share of the steps.", ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = by_method("batch_size", "Rows per optimiser step.", ge=1)
    micro_batch_size: int = Field(
        default_factory=largest_micro_batch,
        ge=1,
        description="Rows per forward pass; must divide batch_size. Unset: the largest divisor up to 8.",
    )
    max_tokens: int = Field(1024, ge=16, description="Longest example in tokens.")
    over_length: Literal["fail", "drop", "truncate_prompt"] = Field(
        "fail",
        description="Longer examples: `fail`, `drop`, or `truncate_prompt` (truncate the start of the longest user text).",
    )
    evals_per_epoch: int = Field(2, ge=1, description="Validation passes and checkpoints per epoch.")
    patience: int = Field(3, ge=1, description="Validation passes without improvement before training stops.")
    seed: Seed = 0
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="`auto`: bfloat16 if supported.")
    augment: bool = Field(
        False,
        description="Also train on each row with typing errors, in another case, and with a greeting (see robustness): up to "
        "four times the rows.",
    )
    shared_prefix: bool = Field(True, description="Compute shared prefixes once per batch.")
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="About a third slower, but far less memory. `auto`: for bases above 1B parameters, never with method "
        "prefix.",
    )
    refine: RefineSpec = RefineSpec()

    def changed(self, **values: Any) -> Self:
        """Return the settings with other values. Raises pydantic.ValidationError for unknown keys and wrong values."""
        return type(self).model_validate({**dict(self), **values})


if TYPE_CHECKING:
    TrainingSpec = TrainingSettings
else:  # adds the section of every method that has one
    TrainingSpec = create_model(
        "TrainingSpec",
        __base__=TrainingSettings,
        __module__=__name__,
        __doc__=TrainingSettings.__doc__,
        **{method.section: (method.options, method.options()) for method in METHODS.values() if method.section},
    )


def decisive_settings(training: TrainingSettings) -> dict[str, object]:
    """Return the settings that affect the model of the first stage: without limits on cost and time, and without the sections of
    other trainers and methods, and of the second stage."""
    others = {method.section for method in METHODS.values()} - {METHODS[training.method].section}
    settings = training.model_dump(exclude={"budget_usd", "refine", *others})
    for name, section in training:
        if isinstance(section, TrainerSection):
            if name == training.trainer:
                settings[name] = section.model_dump(exclude=set(section.without_effect))
            else:
                del settings[name]
    if not training.trainer_options:
        del settings["trainer_options"]
    return settings
