"""The section of task.yaml about training. Settings that depend on the method: :mod:`finetune_pipeline.spec.methods`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import by_method, described, largest_micro_batch
from finetune_pipeline.spec.outputs import Section

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]


class RaySection(Section):
    """The Ray cluster that `training.trainer: ray` trains on. No result depends on these settings."""

    address: str | None = Field(
        None,
        description="Address of the dashboard (`http://head:8265`). Unset: the cluster of `finetune cluster up`.",
    )
    storage: str | None = Field(
        None,
        description="Shared folder, or fsspec URL (`s3://bucket/folder`), where inputs and results travel. Unset: below "
        "FINETUNE_HOME, for a cluster on this machine.",
    )
    workers: int = Field(1, ge=1, le=1024, description="Processes that train together; must divide batch_size.")
    resources: dict[str, float] = Field(
        {"CPU": 1.0}, min_length=1, description="What each worker takes; with `GPU`, it trains on one."
    )
    max_failures: int = Field(3, ge=0, description="Lost workers that a job replaces, from the last checkpoint on.")
    runtime_env: dict[str, Any] = Field(
        default_factory=dict,
        description="Added to Ray's runtime environment of the job, such as `pip` or `image_uri`; never secrets.",
    )


class TrainingSettings(Section):
    """How the model is trained. Settings that are unset take the method's own value while the spec is built."""

    method: MethodName = Field("qlora", description="A training method (docs/training.md).")
    trainer: str = Field("local", description="Where training runs: a name of the table of trainers below.")
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
    ray: RaySection = RaySection()


if TYPE_CHECKING:
    TrainingSpec = TrainingSettings
else:  # with the section of every method that has one
    TrainingSpec = create_model(
        "TrainingSpec",
        __base__=TrainingSettings,
        __module__=__name__,
        __doc__=TrainingSettings.__doc__,
        **{method.section: (method.options, method.options()) for method in METHODS.values() if method.section},
    )


def decisive_settings(training: TrainingSettings) -> dict[str, Any]:
    """The settings that the trained model depends on: all but those of the cluster it is trained on."""
    return training.model_dump(exclude={"ray"})
