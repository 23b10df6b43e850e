"""What a user may write in ``task.yaml``: types, defaults and single-field limits.

Rules that look at more than one field live in :mod:`finetune_pipeline.spec.rules`. Every field has a description; the
JSON schema (``finetune schema``) and the guide's tables are made from this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values cannot change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LabelsOutput(Section):
    """The answer is one of a fixed set of labels."""

    kind: Literal["labels"] = "labels"
    labels: list[Label] = Field(min_length=2, description="All allowed answers, in the order reports show them.")


class TextOutput(Section):
    """The answer is free text."""

    kind: Literal["text"] = "text"
    max_new_tokens: int = Field(256, ge=1, le=8192, description="Longest answer generated in evaluation, in tokens.")


class DataSpec(Section):
    """Where raw examples are and what a good one looks like."""

    raw: list[str] = Field(["raw/*.jsonl"], min_length=1, description="Globs relative to the task folder.")
    format: Literal["auto", "messages", "text_label"] = Field("auto", description="Raw format; `auto` decides per row.")
    max_chars: int = Field(8000, ge=1, description="Rows with more characters in all turns together are quarantined.")
    min_chars: int = Field(2, ge=0, description="User text shorter than this many characters is quarantined.")
    max_quarantine_share: Share = Field(0.2, description="More quarantined rows than this share stops the pipeline.")
    min_examples: int = Field(500, ge=1, description="Fewer clean examples than this stops the pipeline.")
    min_per_label: int = Field(100, ge=0, description="Fewer clean examples of any label than this is a warning.")
    near_duplicate_threshold: float = Field(0.8, gt=0.3, le=1.0, description="Jaccard similarity of character 5-grams.")
    scrub: Literal["replace", "drop", "warn"] = Field(
        "replace", description="What to do with personal data and secrets."
    )


class SplitSpec(Section):
    """Shares of clusters; the train share is the rest."""

    validation: float = Field(0.1, gt=0.0, lt=0.5)
    test: float = Field(0.2, gt=0.0, lt=0.5)
    seed: int = Field(0, ge=0, description="Changes which clusters land where on the first split only.")
    tolerance: float = Field(0.05, gt=0, lt=0.5, description="Allowed absolute deviation of a split's share.")


class BaselineSpec(Section):
    """How the base model is prompted before anybody trains."""

    shots: list[int] = Field([0, 8], min_length=1, description="Numbers of in-context examples to try; 0 is zero-shot.")
    seed: int = Field(0, ge=0)
    max_new_tokens: int = Field(12, ge=1, description="Longest free answer of a label task, in tokens.")
    ceiling: Share = Field(0.9, description="Prompting surely better than this means: do not fine-tune.")
    batch_size: int = Field(16, ge=1, description="Rows generated at once, the same for every model compared.")


class LoraSpec(Section):
    """Low-rank adapter shape (Hu et al. 2021)."""

    r: int = Field(16, ge=1, le=1024)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0.0, lt=1.0)
    target_modules: list[str] | Literal["all-linear"] = "all-linear"


class TrainingSpec(Section):
    """How the adapter is trained."""

    method: Literal["qlora", "lora"] = "qlora"
    epochs: float = Field(2.0, gt=0, le=50)
    unquantized_epochs: float = Field(
        1.0,
        ge=0,
        le=50,
        description="qlora: further epochs on the unquantized base, which the adapter is merged into. 0: "
        "none, for bases that fit into memory only in four bits.",
    )
    learning_rate: float = Field(5e-4, gt=0, lt=1)
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    warmup_share: float = Field(0.05, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(8, ge=1, description="Rows per optimiser step.")
    micro_batch_size: int = Field(8, ge=1, description="Rows per forward pass; must divide batch_size.")
    max_tokens: int = Field(1024, ge=16, description="Longest example in tokens.")
    over_length: Literal["fail", "drop"] = Field(
        "fail", description="What to do with longer examples. Never cut silently."
    )
    evals_per_epoch: int = Field(2, ge=1, description="Validation passes (and checkpoints) per epoch.")
    patience: int = Field(3, ge=1, description="Validation passes without improvement before stopping.")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 where it is native."
    )
    shared_prefix: bool = Field(True, description="Compute a prefix common to all rows once per batch.")
    lora: LoraSpec = LoraSpec()


class GatesSpec(Section):
    """What a candidate must show before `champion` moves."""

    worth_training: Literal["block", "warn"] = "block"
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="The interval of the gain over the baseline must lie above this."
    )
    confidence: float = Field(0.95, gt=0.5, lt=1)
    min_valid_share: Share = Field(0.95, description="Lower bound of the share of answers in the declared form.")
    parity_min_agreement: Share = Field(
        0.9,
        description="Adapter and merged model must give the same answers this often. Rounding to 16 bits may flip near "
        "ties; the divergence limit is the sharp part of the comparison.",
    )


class LogsSpec(Section):
    """Production logs and what they start."""

    path: str = Field("logs", description="Folder of JSON Lines files, relative to the task folder.")
    min_new_rows: int = Field(50, ge=1, description="Usable new rows before the sensor asks for a run.")
    settle_seconds: int = Field(60, ge=0, description="Files must have been quiet for this long.")
    retrain_cron: str = Field("0 3 * * 1", description="Cron of the retraining schedule (stopped by default).")


class TaskSpec(Section):
    """One thing to learn, declared."""

    name: Name
    description: str = Field(min_length=1)
    owner: str = Field("team:ml", description="E-mail address or `team:name`, shown in Dagster.")
    base_model: str = Field("bundled/smollm2-135m-instruct", description="`bundled/…`, a local folder, or a hub id.")
    base_revision: str | None = Field(None, description="Commit of a hub model; pins the weights.")
    system_prompt: str = Field(min_length=1, description="In front of every example, in training and in serving alike.")
    output: Annotated[LabelsOutput | TextOutput, Field(discriminator="kind")]
    data: DataSpec = DataSpec()
    split: SplitSpec = SplitSpec()
    baseline: BaselineSpec = BaselineSpec()
    training: TrainingSpec = TrainingSpec()
    gates: GatesSpec = GatesSpec()
    logs: LogsSpec = LogsSpec()

    @property
    def labels(self) -> list[str]:
        """The label set, empty for tasks with free text."""
        return list(self.output.labels) if isinstance(self.output, LabelsOutput) else []


class Task(BaseModel):
    """A loaded spec together with the folder it was found in (absolute)."""

    model_config = ConfigDict(frozen=True)
    spec: TaskSpec
    folder: Path

    @property
    def name(self) -> str:
        return self.spec.name
