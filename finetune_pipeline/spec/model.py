"""What a user may write in ``task.yaml``: types, defaults and single-field limits.

Rules that look at more than one field live in :mod:`finetune_pipeline.spec.rules`. Every field has a description; the
JSON schema (``finetune schema``) and the guide's tables are made from this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, create_model

from finetune_pipeline.spec.ability import AbilitySpec
from finetune_pipeline.spec.asking import AdviseSpec, BaselineSpec
from finetune_pipeline.spec.card import CardSpec
from finetune_pipeline.spec.engines import EvaluationSpec
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.methods.base import by_method, described, largest_micro_batch
from finetune_pipeline.spec.outputs import AnyOutput, LabelsOutput, Metric, Section, Share, default_metric
from finetune_pipeline.spec.robustness import RobustnessSpec
from finetune_pipeline.spec.watching import DriftSpec, LogsSpec, RetrainingSpec

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class FieldsSpec(Section):
    """Where things are in a raw row, as JMESPath expressions (jmespath.org); CSV and Parquet rows are flat objects.

    Besides the row's own keys an expression may be ``$file`` (the file's name), ``$key`` (for a JSON document that is
    an object of lists: the key of the list the row stands in) or ``='text'`` (this very text). Elements of `each` that
    are no objects are called ``element``. Without any of the fields for texts (messages … output) the texts are found
    by the format, and the other fields are filled in beside them.
    """

    rows: str | None = Field(None, description="The list of rows inside a JSON document, where it is not the document.")
    each: str | None = Field(
        None, description="A list inside the row: one example per element, which sees the row's keys."
    )
    messages: str | None = Field(None, description="A list of turns with role and content.")
    text: str | None = Field(None, description="What the user says; together with `label`.")
    label: str | None = Field(None, description="The right label.")
    prompt: str | None = Field(None, description="What the user says; together with `completion`.")
    completion: str | None = Field(None, description="The right answer.")
    instruction: str | None = Field(None, description="The instruction; `input` is put below it, after a blank line.")
    input: str | None = Field(None, description="What the instruction is about; may be empty.")
    output: str | None = Field(None, description="The right answer.")
    system: str | None = Field(None, description="The system turn.")
    tools: str | None = Field(None, description="A list of functions the assistant may call.")
    id: str | None = None
    group: str | None = Field(None, description="Rows of one group share a split: a dialogue, a customer, a document.")
    origin: str | None = Field(None, description="human, production or synthetic.")
    generator: str | None = Field(None, description="What made a synthetic row.")
    time: str | None = Field(None, description="When the row was made, RFC 3339 or seconds since 1970.")
    tags: str | None = None


class CsvSpec(Section):
    """The dialect of CSV and TSV files. What is declared is taken; anything else must follow from the file itself, or the
    file is refused with the line to add here."""

    delimiter: Literal[",", ";", "\t", "|"] | None = None
    quote: Literal['"', "'", "none"] | None = Field(None, description="`none`: quotes are ordinary characters.")
    header: bool | None = Field(None, description="Whether the first row names the columns.")
    encoding: str = Field("utf-8", description="For example cp1252.")


class SyntheticSpec(Section):
    """What is asked of rows a model has written."""

    review_share: Share = Field(0.1, description="Share of the synthetic rows people must look at before training.")
    acceptable_rejected: Share = Field(
        0.02, description="Share of bad rows with which a set should pass (acceptable quality level)."
    )
    intolerable_rejected: Share = Field(
        0.10, description="Share of bad rows with which a set must not pass (rejectable quality level)."
    )
    risk: float = Field(0.05, gt=0, lt=0.5, description="Chance of a wrong verdict on the sample at either level.")


class SemanticSpec(Section):
    """Likeness of meaning by an embedding model; suspects for people unless `remove` is set."""

    model: str = Field(
        "hashed",
        description="`hashed` (built in: words and their parts), `wordllama`, or a folder with static embeddings.",
    )
    threshold: float = Field(0.9, gt=0.0, le=1.0, description="Cosine similarity from which rows are suspects.")
    remove: bool = Field(False, description="Treat suspects as near-duplicates.")


class ConsistencySpec(Section):
    """How uniform the answers must be."""

    max_minority: Share = Field(0.1, description="Forms that together are rarer than this are stray rows, a warning.")


class DataSpec(Section):
    """Where raw examples are and what a good one looks like."""

    raw: list[str] = Field(
        ["raw/*.jsonl"],
        min_length=1,
        description="Globs relative to the task folder (jsonl, json, csv, tsv, parquet, .gz).",
    )
    format: str = Field(
        "auto",
        description="Format of the raw rows, by its name in docs/data.md; `auto` finds it row by row and says why.",
    )
    fields: FieldsSpec = FieldsSpec()
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        default_factory=dict, description="Other names of roles: {USER: user, SYSTEM: assistant}."
    )
    csv: CsvSpec = CsvSpec()
    inject: bool = Field(False, description="Add the spec's system_prompt to chats without a system turn.")
    max_chars: int = Field(8000, ge=1, description="Rows with more characters in all turns together are quarantined.")
    min_chars: int = Field(2, ge=0, description="User text shorter than this many characters is quarantined.")
    max_quarantine_share: Share = Field(0.2, description="More quarantined rows than this share stops the pipeline.")
    min_examples: int = Field(500, ge=1, description="Fewer clean examples than this stops the pipeline.")
    min_per_label: int = Field(100, ge=0, description="Fewer clean examples of any label than this stops the pipeline.")
    many_examples: int = Field(10_000, ge=1, description="Above this, advice to train on a part first.")
    max_imbalance: float = Field(10.0, ge=1, description="Largest over smallest label; more is a warning.")
    max_suspects_of_a_file: Share = Field(
        0.5,
        description="A raw file of whose labels more than this share is contradicted by the other files stops the pipeline. "
        "1: never.",
    )
    max_label_noise: Share = Field(
        0.3,
        description="When surely more than this share of the labels is wrong, the pipeline stops. 1: never.",
    )
    near_duplicate_threshold: float = Field(0.8, gt=0.3, le=1.0, description="Jaccard similarity of character 5-grams.")
    contradictions: Literal["quarantine", "warn"] = Field(
        "quarantine", description="What to do with equal prompts that are answered differently."
    )
    semantic: SemanticSpec | None = Field(None, description="Likeness of meaning; off unless given.")
    consistency: ConsistencySpec = ConsistencySpec()
    synthetic: SyntheticSpec = SyntheticSpec()
    scrub: Literal["replace", "drop", "warn"] = Field(
        "replace", description="What to do with personal data and secrets."
    )
    scrub_names: bool = Field(
        False, description="Look for names and addresses of people too, with the recogniser model installed."
    )
    benchmarks: list[str] = Field(
        default_factory=list,
        description="Globs of benchmark files; training rows that repeat one of their rows are removed.",
    )


class SplitSpec(Section):
    """Shares of clusters; the train share is the rest."""

    by: Literal["cluster", "time"] = Field(
        "cluster",
        description="`cluster`: by hash of the near-duplicate cluster or group; `time`: the newest are the test.",
    )
    validation: float = Field(0.1, gt=0.0, lt=0.5)
    test: float = Field(0.2, gt=0.0, lt=0.5)
    seed: int = Field(0, ge=0, description="Changes which clusters land where on the first split only.")
    tolerance: float = Field(0.05, gt=0, lt=0.5, description="Allowed absolute deviation of a split's share.")


class TrainingSettings(Section):
    """How the model is trained. Settings that are unset take the method's own value while the spec is built."""

    method: MethodName = Field("qlora", description="docs/methods.md says when to use which.")
    trainer: str = Field("local", description="Where training runs: a name of the table of trainers below.")
    epochs: float = Field(2.0, gt=0, le=50, description="Passes over the training split; more than 3 is a warning.")
    unquantized_epochs: float = Field(
        default_factory=by_method("unquantized_epochs"),
        ge=0,
        le=50,
        description=described(
            "unquantized_epochs",
            "qlora: further epochs on the unquantized base, which the adapter is merged into. 0: none, for bases that "
            "fit into memory only in four bits.",
        ),
    )
    learning_rate: float = Field(
        default_factory=by_method("learning_rate"), gt=0, lt=1, description=described("learning_rate", "At its peak.")
    )
    scheduler: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        default_factory=by_method("scheduler"), description=described("scheduler")
    )
    warmup_share: float = Field(
        default_factory=by_method("warmup_share"), ge=0, lt=1, description=described("warmup_share", "Of all steps.")
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
        description="What to do with longer examples; `truncate_prompt` cuts the longest user text from its start, never "
        "the system prompt, never an answer. Whatever is done is counted and listed.",
    )
    evals_per_epoch: int = Field(2, ge=1, description="Validation passes (and checkpoints) per epoch.")
    patience: int = Field(3, ge=1, description="Validation passes without improvement before stopping.")
    seed: int = Field(0, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="`auto`: bfloat16 where it is native."
    )
    augment: bool = Field(
        False,
        description="Give training rows the perturbations of robustness (typing errors, another case, a greeting and "
        "thanks): every row is learned as it is and once perturbed, so an epoch takes twice as long. Never validation or "
        "test rows.",
    )
    shared_prefix: bool = Field(True, description="Compute beginnings that rows share once per batch.")
    gradient_checkpointing: bool | Literal["auto"] = Field(
        "auto",
        description="Keep no activations but compute them again: about a third slower, far less memory. `auto`: for "
        "bases above 1B parameters, and never with method prefix.",
    )


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


class GatesSpec(Section):
    """What a candidate must show before `champion` moves."""

    worth_training: Literal["block", "warn"] = Field(
        "block", description="What to do when something simpler is surely good enough (baseline.ceiling)."
    )
    learnable: Literal["block", "warn"] = Field(
        "block", description="What to do when the answers cannot be told from the inputs."
    )
    metric: Metric | None = Field(
        None,
        description="What the comparison is decided by. Unset: accuracy for labels; exact for json, and for text with "
        "output.extract; rougeLsum for other text.",
    )
    more_metrics: list[Metric] = Field(
        default_factory=list,
        description="Further metrics in which the gain must be shown too, each at a level corrected for their number "
        "(Holm).",
    )
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="The interval of the gain over the baseline must lie above this."
    )
    wanted_gain: float = Field(
        0.05, gt=0, lt=1, description="The gain worth having; before training it is told how many test rows show it."
    )
    power: float = Field(0.8, gt=0.5, lt=1, description="Chance with which the wanted gain should be found.")
    enough_test_rows: Literal["block", "warn"] = Field(
        "warn", description="What to do when the test set is too small to show the wanted gain."
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Of the first candidate's intervals. Every further candidate that one test set judges meets a stricter "
        "level (docs/gates.md), so that all of them together are wrongly promoted less often than 1 - confidence.",
    )
    simple: Literal["better", "not_worse"] = Field(
        "better",
        description="What a candidate must show against each model without a language model: that it is better, or (where "
        "you want one model for other reasons) that it loses less than simple_margin.",
    )
    simple_margin: float = Field(
        0.02, gt=0, lt=1, description="With simple: not_worse, the loss that must be ruled out."
    )
    champion: Literal["better", "not_worse"] = Field(
        "better",
        description="What a candidate must show against the champion: that it is better, or that it loses less than "
        "champion_margin and is ahead on the test rows. A tie never promotes.",
    )
    champion_margin: float = Field(
        0.02, gt=0, lt=1, description="With champion: not_worse, the loss that must be ruled out."
    )
    max_regression: Share = Field(
        0.2,
        description="Upper bound of the share of rows the champion has right and the candidate gets wrong, of those the "
        "champion has right.",
    )
    never_break: list[str] | str = Field(
        default_factory=list,
        description="Ids of test examples the candidate must have right, or a file in the task folder with one id a line.",
    )
    max_ability_loss: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Accuracy on questions besides the task that may be lost: a larger loss must be ruled out by the interval. "
        "The questions that ship cannot rule out less than about 5 points.",
    )
    max_text_loss: float = Field(
        0.5, gt=0, description="By how much more plain text may cost the model, as a share of its bits a byte before."
    )
    min_rated: int = Field(0, ge=0, description="Answers drawn at random that people must have judged. 0: none.")
    min_accepted: Share = Field(
        0.8, description="With min_rated: lower bound of the share of these answers that people accept."
    )
    min_preferred: Share = Field(
        0.0,
        description="Lower bound of the share of decided pairs in which evaluation.judge prefers the candidate to the base. "
        "0: it decides nothing.",
    )
    min_valid_share: Share = Field(0.95, description="Lower bound of the share of answers in the declared form.")
    parity_min_agreement: Share = Field(
        0.9,
        description="What was trained and what is served must give the same answers this often. Rounding to 16 bits may flip near "
        "ties; the divergence limit is the sharp part of the comparison.",
    )


CHAT_TEMPLATES = ("chatml", "gemma", "llama3", "none")
"""Names a spec may give as `chat_template`; their texts are in :mod:`finetune_pipeline.models.chat_templates`."""


class TaskSpec(Section):
    """One thing to learn, declared."""

    name: Name
    description: str = Field(min_length=1)
    owner: str = Field("team:ml", description="E-mail address or `team:name`, shown in Dagster.")
    base_model: str = Field("bundled/smollm2-135m-instruct", description="`bundled/…`, a local folder, or a hub id.")
    base_revision: str | None = Field(None, description="Commit of a hub model; pins the weights.")
    chat_template: str | None = Field(
        None,
        min_length=1,
        description="For bases without a chat template: `chatml`, `gemma`, `llama3`, `none` (plain text), or a Jinja file "
        "in the task folder. Unset: the model's own.",
    )
    system_prompt: str = Field(min_length=1, description="In front of every example, in training and in serving alike.")
    output: Annotated[AnyOutput, Field(discriminator="kind")]
    data: DataSpec = DataSpec()
    split: SplitSpec = SplitSpec()
    baseline: BaselineSpec = BaselineSpec()
    advise: AdviseSpec = AdviseSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    robustness: RobustnessSpec = RobustnessSpec()
    ability: AbilitySpec = AbilitySpec()
    gates: GatesSpec = GatesSpec()
    logs: LogsSpec = LogsSpec()
    drift: DriftSpec = DriftSpec()
    retraining: RetrainingSpec = RetrainingSpec()
    card: CardSpec = CardSpec()

    @property
    def labels(self) -> list[str]:
        """The label set, empty for tasks whose answers are written freely."""
        return list(self.output.labels) if isinstance(self.output, LabelsOutput) else []

    @property
    def metric(self) -> Metric:
        """The metric that decides: gates.metric, or the default of the kind of output."""
        return self.gates.metric or default_metric(self.output)


class Task(BaseModel):
    """A loaded spec together with the folder it was found in (absolute)."""

    model_config = ConfigDict(frozen=True)
    spec: TaskSpec
    folder: Path

    @property
    def name(self) -> str:
        return self.spec.name
