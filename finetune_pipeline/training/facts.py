"""Facts of a training, as trainers write them and checks, report and MLflow read them. Imports no torch."""

from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.models.facts import Weights
from finetune_pipeline.models.hosted import HostedModel
from finetune_pipeline.training.audit import Audit, SplitAudit
from finetune_pipeline.training.history import LoggedLoss, Overfitting


class Trained(Facts, frozen=True, kw_only=True):
    """The trained tensors in `folder`. bytes: size of their files. parameters: counted only where a service trained them."""

    folder: str
    kind: str
    bytes: int
    tensors: list[str]
    parameters: int | None = None


class Measured(Facts, frozen=True, kw_only=True):
    """Time in seconds and memory in MiB of a training's process, and what else differs from run to run.

    Attributes:
        resumed_from: The checkpoint from which it resumed.
        billed_tokens, dollars: Cost of a training as the service reports it.
    """

    seconds: float | None = None
    cpu_seconds: float | None = None
    train_seconds: float | None = None
    peak_memory_mib: float | None = None
    resumed_from: str | None = None
    billed_tokens: int | None = None
    dollars: float | None = None


class RefinedFacts(Facts, frozen=True, kw_only=True):
    """Facts of a second stage (training.refine.refine). They depend only on the job, and on the micro-batch that fits
    into memory.

    Attributes:
        rows: Pairs (dpo) or answers (kto) that were trained on; too_long: those left out for their length.
        liked_weight, disliked_weight: KTO's weights, which balance the two kinds.
        audit: Of every sequence in the trainer's batches.
    """

    method: str
    rows: int
    liked: int
    disliked: int
    liked_weight: float
    disliked_weight: float
    too_long: int
    steps: int
    history: list[LoggedLoss]
    audit: SplitAudit
    trained: Trained


class Difference(Facts, frozen=True, kw_only=True):
    """The mean difference of two models' answers (refined minus supervised), and its interval."""

    mean: float
    interval: tuple[float, float] | None

    @property
    def surely_below(self) -> bool:
        return self.interval is not None and self.interval[1] < 0

    @property
    def surely_above(self) -> bool:
        return self.interval is not None and self.interval[0] > 0


class Compared(Facts, frozen=True, kw_only=True):
    """What people, or they and a judge model, say of both models' answers to the same rows, blind.

    Attributes:
        rated: Rows; judged: those that only the judge compared; refined, supervised: those where this model's answer is better.
        evidence: That the refined model's answers are better more often, 1 at the beginning; needed: from which on it is sure.
    """

    rated: int
    judged: int = 0
    refined: int
    supervised: int
    evidence: float
    needed: float

    @property
    def surely_better(self) -> bool:
        return self.evidence >= self.needed


class RefinedChoice(Facts, frozen=True, kw_only=True):
    """Which of the two models goes on, or whether the sealed test confirms that the refined one does.

    Attributes:
        refined: Whether the refined one does.
        reasons: Why not, by name (evaluation.refined_choice).
        split: Of the rows.
        rows: Rows that both answered; changed: those with another answer.
        better: Whether it is surely better in the task's metric; gain: by how much.
        exact_p: Two-sided p of the exact McNemar test; None if the metric is not a share of right answers.
        form: Of the share of answers in the declared form.
        longer: Of the share by which answers exceed the length of their references; None unless answers are text.
        phrases: That text answers surely contain more often than before and than the references.
        ability: Of the accuracy on general questions; None if it was not asked.
        people: Their comparison of text answers to validation rows; None if nobody has compared any.
        judge: People's and a trusted judge model's comparison; None if no judge was asked, or it is not trusted.
    """

    refined: bool
    reasons: list[str]
    sentence: str
    split: Literal["validation", "test"] = "validation"
    metric: str
    rows: int
    changed: int
    better: bool
    gain: Difference
    exact_p: float | None
    form: Difference
    longer: Difference | None = None
    phrases: list[str] = msgspec.field(default_factory=list)
    ability: Difference | None = None
    people: Compared | None = None
    judge: Compared | None = None

    @property
    def liked(self) -> bool:
        """Whether people, or they and the judge, surely prefer the refined model's answers."""
        return any(each is not None and each.surely_better for each in (self.people, self.judge))


class Refinement(Facts, frozen=True, kw_only=True):
    """A second stage on preferences. too_few: why there was none; empty if there was."""

    too_few: str = ""
    training: RefinedFacts | None = None
    choice: RefinedChoice | None = None

    @property
    def sentence(self) -> str:
        return self.choice.sentence if self.choice else f"There was no second stage: {self.too_few}."


class TrainingFacts(Facts, frozen=True, kw_only=True):
    """What every trainer reports. None: unknown here, such as the loss before training at a service.

    Attributes:
        precision: Of its computations.
        steps: Optimiser steps.
        best_step: The step whose weights were kept.
        endpoint: The model at an endpoint, if no weights were returned.
        refinement: Of a second stage on preferences, if the task asks for one. All other facts are those of the first stage.
        own: Facts of a trainer outside this package.
        measured: Of measured.json; not part of the stored facts.
    """

    method: str
    precision: str | None
    steps: int | None
    epochs: float
    stopped_early: bool | None
    best_step: int | None
    best_eval_loss: float | None
    first_eval_loss: float | None
    last_train_loss: float | None
    history: list[LoggedLoss]
    adapter_tensors: list[str]
    overfitting: Overfitting | None = None
    trainable_parameters: int | None = None
    trained: Trained | None = None
    endpoint: HostedModel | None = None
    refinement: Refinement | None = None
    own: dict[str, Any] = msgspec.field(default_factory=dict)
    measured: Measured = Measured()


class Rounding(Facts, frozen=True, kw_only=True):
    """Validation loss of full weights as they are stored."""

    dtype: str
    eval_loss: float


class MicroBatch(Facts, frozen=True, kw_only=True):
    """Rows of one pass: as declared, and as used because they fit into memory."""

    declared: int
    used: int


class Checkpointing(Facts, frozen=True, kw_only=True):
    """Whether gradient checkpointing was used, and why."""

    used: bool
    why: str


class SharedPrefix(Facts, frozen=True, kw_only=True):
    """Whether the common beginning of all rows was computed once. why: why not. kernel: of packed attention."""

    used: bool
    why: str
    prefix_tokens: int
    kernel: str | None = None
    kernel_why: str | None = None


class Fused(Facts, frozen=True, kw_only=True):
    """How many modules have a fused forward."""

    lora_layers: int
    norms: int


class SplitTokens(Facts, frozen=True, kw_only=True):
    """Rows of a split, and their tokens."""

    rows: int
    tokens: int
    loss_tokens: int


class Augmented(Facts, frozen=True, kw_only=True):
    """Perturbed copies that were trained on, by kind; too_long: copies left out for their length."""

    rows: int
    kinds: dict[str, int]
    too_long: int


class LengthFacts(Facts, frozen=True, kw_only=True):
    """Examples left out (`over_length`) and cut for their length, with the ids of the first of each."""

    over_length: int
    ids: list[str]
    cut: int
    cut_ids: list[str]
    tokens_cut: int


class Phase(Facts, frozen=True, kw_only=True):
    """One phase of a training. base: how the base model was stored in it."""

    base: str
    steps: int
    epochs: float
    best_eval_loss: float
    first_eval_loss: float
    last_train_loss: float
    stopped_early: bool
    precision: str
    micro_batch: MicroBatch


class LocalTraining(TrainingFacts, frozen=True, kw_only=True):
    """Facts of a training by this package, here or on a cluster (training.sft.train). They depend only on the job, on how many
    processes share it, and on the micro-batch that fits into memory.

    Attributes:
        begun: How the method initialised its weights.
        rounding: Only of the method full.
        tokens, rows_dropped: By split.
        audit: Counts of the supervision audit.
        phases: Of a training with several; quantization_gap: the validation loss on the last phase's base minus that on the
            previous base, for the same adapter.
    """

    precision: str
    steps: int
    stopped_early: bool
    best_step: int
    best_eval_loss: float
    first_eval_loss: float
    last_train_loss: float
    overfitting: Overfitting
    trained: Trained
    trainable_parameters: int
    total_parameters: int
    device: str
    processes: int
    strategy: str
    weights: Weights
    begun: dict[str, Any]
    rounding: Rounding | None
    micro_batch: MicroBatch
    gradient_checkpointing: Checkpointing
    shared_prefix: SharedPrefix
    fused: Fused
    tokens: dict[str, SplitTokens]
    augmented: Augmented
    rows_dropped: dict[str, LengthFacts]
    steps_planned: int
    audit: Audit
    phases: list[Phase] | None = None
    quantization_gap: float | None = None


class HostedTraining(TrainingFacts, frozen=True, kw_only=True):
    """Facts of a training at a service, which shows neither its memory nor its tokens.

    Attributes:
        service: Its name and host.
        model: The trained model, and service_base_model its base, as the service calls them.
        rows: Rows of the uploaded files, by split.
        kept_step: The step of the downloaded weights.
    """

    service: str
    returns: Literal["weights", "endpoint"]
    job: str
    model: str
    service_base_model: str
    hyperparameters: dict[str, Any]
    rows: dict[str, int]
    kept_step: int | None = None


AnyTraining = LocalTraining | HostedTraining


def training_of(adapter: Artifact) -> AnyTraining:
    """Return the facts of an `adapter` artifact, with what its training measured. Raises DamagedFile."""
    path = adapter.folder / "measured.json"
    measured = Measured.read(path) if path.exists() else Measured()
    if "service" in adapter.facts:
        return replace(adapter.read(HostedTraining), measured=measured)
    return replace(adapter.read(LocalTraining), measured=measured)
