"""What a user may write in ``task.yaml``: types, defaults and single-field limits.

Rules that look at more than one field live in :mod:`finetune_pipeline.spec.rules`. Every field has a description; the
JSON schema (``finetune schema``) and the guide's tables are made from this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from finetune_pipeline.spec.ability import AbilitySpec
from finetune_pipeline.spec.asking import AdviseSpec, BaselineSpec
from finetune_pipeline.spec.card import CardSpec
from finetune_pipeline.spec.engines import EvaluationSpec
from finetune_pipeline.spec.method_defaults import Method, by_method, described, largest_micro_batch
from finetune_pipeline.spec.outputs import AnyOutput, LabelsOutput, Metric, Section, Share, default_metric
from finetune_pipeline.spec.robustness import RobustnessSpec
from finetune_pipeline.spec.watching import DriftSpec, LogsSpec, RetrainingSpec

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


class FieldsSpec(Section):
    """Where things are in a raw row, as JMESPath expressions (jmespath.org); CSV and Parquet rows are flat objects.

    Besides the row's own keys an expression may be ``$file`` (the file's name), ``$key`` (for a JSON document that is
    an object of lists: the key of the list the row stands in) or ``='text'`` (this very text). Elements of `each` that
    are no objects are called ``element``. Without any of the fields for texts (messages … output) the texts are found
    by the format, and the other fields are filled in beside them.
    """

    rows: str | None = Field(None, description="Path to the list of rows inside a JSON document.")
    each: str | None = Field(
        None, description="List inside the row; one example per element, which can use the row's keys."
    )
    messages: str | None = Field(None, description="List of turns with role and content.")
    text: str | None = Field(None, description="User text; use with `label`.")
    label: str | None = Field(None, description="Correct label.")
    prompt: str | None = Field(None, description="User text; use with `completion`.")
    completion: str | None = Field(None, description="Correct answer.")
    instruction: str | None = Field(None, description="Instruction; `input` follows it after a blank line.")
    input: str | None = Field(None, description="Text the instruction applies to; may be empty.")
    output: str | None = Field(None, description="Correct answer.")
    system: str | None = Field(None, description="System turn.")
    tools: str | None = Field(None, description="Functions the assistant may call.")
    id: str | None = None
    group: str | None = Field(None, description="Rows of one group (dialogue, customer, document) share a split.")
    origin: str | None = Field(None, description="human, production or synthetic.")
    generator: str | None = Field(None, description="Model that wrote a synthetic row.")
    time: str | None = Field(None, description="RFC 3339, or seconds since 1970.")
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

    review_share: Share = Field(0.1, description="Share of synthetic rows to review before training.")
    acceptable_rejected: Share = Field(0.02, description="Share of bad rows that should pass.")
    intolerable_rejected: Share = Field(0.10, description="Share of bad rows that must not pass.")
    risk: float = Field(0.05, gt=0, lt=0.5, description="Probability of a wrong verdict at either level.")


class SemanticSpec(Section):
    """Likeness of meaning by an embedding model; suspects for people unless `remove` is set."""

    model: str = Field(
        "hashed",
        description="`hashed` (built in), `wordllama`, or a folder with static embeddings.",
    )
    threshold: float = Field(0.9, gt=0.0, le=1.0, description="Cosine similarity above which rows are suspects.")
    remove: bool = Field(False, description="Treat suspects as near-duplicates.")


class ConsistencySpec(Section):
    """How uniform the answers must be."""

    max_minority: Share = Field(0.1, description="Answer formats rarer than this are reported as stray rows.")


class DataSpec(Section):
    """Where raw examples are and what a good one looks like."""

    raw: list[str] = Field(
        ["raw/*.jsonl"],
        min_length=1,
        description="Globs relative to the task folder (jsonl, json, csv, tsv, parquet, .gz).",
    )
    format: str = Field(
        "auto",
        description="Name of the raw format; `auto` detects it row by row.",
    )
    fields: FieldsSpec = FieldsSpec()
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = Field(
        default_factory=dict, description="Names of roles in the data: {USER: user, SYSTEM: assistant}."
    )
    csv: CsvSpec = CsvSpec()
    inject: bool = Field(False, description="Add system_prompt to chats without a system turn.")
    max_chars: int = Field(8000, ge=1, description="Longer rows (all turns) are quarantined.")
    min_chars: int = Field(2, ge=0, description="Rows with shorter user text are quarantined.")
    max_quarantine_share: Share = Field(0.2, description="A larger share stops the pipeline.")
    min_examples: int = Field(500, ge=1, description="Fewer clean examples stop the pipeline.")
    min_per_label: int = Field(100, ge=0, description="Fewer clean examples of any label stop the pipeline.")
    many_examples: int = Field(10_000, ge=1, description="Above this, train on a subset first.")
    max_imbalance: float = Field(10.0, ge=1, description="Largest label over smallest; a higher ratio warns.")
    max_suspects_of_a_file: Share = Field(
        0.5,
        description="Stop if the other files contradict a larger share of a file's labels. 1: never.",
    )
    max_label_noise: Share = Field(
        0.3,
        description="Stop if surely more labels are wrong. 1: never.",
    )
    near_duplicate_threshold: float = Field(0.8, gt=0.3, le=1.0, description="Jaccard similarity of character 5-grams.")
    contradictions: Literal["quarantine", "warn"] = Field(
        "quarantine", description="Equal prompts with different answers: `quarantine` or `warn`."
    )
    semantic: SemanticSpec | None = Field(None, description="Similarity of meaning; off unless set.")
    consistency: ConsistencySpec = ConsistencySpec()
    synthetic: SyntheticSpec = SyntheticSpec()
    scrub: Literal["replace", "drop", "warn"] = Field(
        "replace", description="Personal data and secrets: `replace`, `drop` or `warn`."
    )
    scrub_names: bool = Field(False, description="Also look for names and addresses of people; needs a spaCy model.")
    benchmarks: list[str] = Field(
        default_factory=list,
        description="Globs of benchmark files; rows that repeat an item are removed.",
    )


class SplitSpec(Section):
    """Shares of clusters; the train share is the rest."""

    by: Literal["cluster", "time"] = Field(
        "cluster",
        description="`cluster`: by hash; `time`: the newest rows are the test.",
    )
    validation: float = Field(0.1, gt=0.0, lt=0.5)
    test: float = Field(0.2, gt=0.0, lt=0.5)
    seed: int = Field(0, ge=0, description="Affects the first split only.")
    tolerance: float = Field(0.05, gt=0, lt=0.5, description="Allowed deviation of a split's share.")


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
        description="About a third slower, far less memory. `auto`: for bases above 1B parameters, never with method prefix.",
    )
    lora: LoraSpec = LoraSpec()
    prefix: PrefixSpec = PrefixSpec()
    prompt: PromptTuningSpec = PromptTuningSpec()


class GatesSpec(Section):
    """What a candidate must show before `champion` moves."""

    worth_training: Literal["block", "warn"] = Field(
        "block", description="`block` or `warn` when something simpler is good enough (baseline.ceiling)."
    )
    learnable: Literal["block", "warn"] = Field(
        "block", description="`block` or `warn` when the inputs do not predict the answers."
    )
    metric: Metric | None = Field(
        None,
        description="Metric that decides. Unset: accuracy for labels; exact for json and output.extract; rougeLsum for other text.",
    )
    more_metrics: list[Metric] = Field(
        default_factory=list,
        description="Further metrics that must show the gain (Holm-corrected).",
    )
    min_gain: float = Field(
        0.0, ge=0, lt=1, description="The lower bound of the gain over the baseline must exceed this."
    )
    wanted_gain: float = Field(0.05, gt=0, lt=1, description="Gain worth having; sets how many test rows are needed.")
    power: float = Field(0.8, gt=0.5, lt=1, description="Probability of detecting the wanted gain.")
    enough_test_rows: Literal["block", "warn"] = Field(
        "warn", description="`block` or `warn` when the test is too small to show the wanted gain."
    )
    confidence: float = Field(
        0.95,
        gt=0.5,
        lt=1,
        description="Level for the first candidate; stricter for later ones (docs/gates.md).",
    )
    simple: Literal["better", "not_worse"] = Field(
        "better",
        description="Against each simple model: `better` or `not_worse` (simple_margin).",
    )
    simple_margin: float = Field(0.02, gt=0, lt=1, description="Largest loss allowed with simple: not_worse.")
    champion: Literal["better", "not_worse"] = Field(
        "better",
        description="Against the champion: `better`, or `not_worse` (champion_margin) and ahead on the test.",
    )
    champion_margin: float = Field(0.02, gt=0, lt=1, description="Largest loss allowed with champion: not_worse.")
    max_regression: Share = Field(
        0.2,
        description="Largest share of the champion's correct rows the candidate may get wrong (upper bound).",
    )
    never_break: list[str] | str = Field(
        default_factory=list,
        description="Ids of test examples that must be right, or a file with one id per line.",
    )
    max_ability_loss: float = Field(
        0.1,
        gt=0,
        le=1,
        description="Loss of general ability (accuracy) that must be ruled out.",
    )
    max_text_loss: float = Field(0.5, gt=0, description="Allowed relative rise of the bits per byte on plain text.")
    min_rated: int = Field(0, ge=0, description="Randomly drawn answers people must have rated. 0: none.")
    min_accepted: Share = Field(0.8, description="With min_rated: lower bound of the accepted share.")
    min_preferred: Share = Field(
        0.0,
        description="Lower bound of the share of decided pairs in which the judge prefers the candidate. 0: not used.",
    )
    min_valid_share: Share = Field(0.95, description="Lower bound of the share of answers in the declared format.")
    parity_min_agreement: Share = Field(
        0.9,
        description="Share of equal answers required between the trained and the served model.",
    )


CHAT_TEMPLATES = ("chatml", "gemma", "llama3", "none")
"""Names a spec may give as `chat_template`; their texts are in :mod:`finetune_pipeline.models.chat_templates`."""


class TaskSpec(Section):
    """One thing to learn, declared."""

    name: Name
    description: str = Field(min_length=1)
    owner: str = Field("team:ml", description="E-mail address or `team:name`, shown in Dagster.")
    base_model: str = Field("bundled/smollm2-135m-instruct", description="`bundled/…`, a local folder, or a Hub id.")
    base_revision: str | None = Field(None, description="Commit of a Hub model; pins the weights.")
    chat_template: str | None = Field(
        None,
        min_length=1,
        description="For bases without one: `chatml`, `gemma`, `llama3`, `none`, or a Jinja file in the task folder.",
    )
    system_prompt: str = Field(
        min_length=1, description="System prompt of every example, in training and in production."
    )
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
    def metric(self) -> str:
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
