"""The schema of ``task.yaml``: types, defaults and single-field limits; its sections are in the modules beside this one.

Rules on more than one field are in :mod:`finetune_pipeline.spec.rules`. Every field has a description; the JSON schema
(``finetune show --schema task.yaml``) and the reference's tables are generated from these files.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from finetune_pipeline.spec.baseline import AdviseSpec, BaselineSpec, LadderSpec
from finetune_pipeline.spec.data import DataSpec, SplitSpec
from finetune_pipeline.spec.evaluation import AbilitySpec, AutomationSpec, EvaluationSpec, GatesSpec, RobustnessSpec
from finetune_pipeline.spec.outputs import COVERAGE, AnyOutput, JsonOutput, LabelsOutput, Section, Share, default_metric
from finetune_pipeline.spec.teacher import TeacherSpec
from finetune_pipeline.spec.training import TrainingSpec

NAME = r"^[a-z][a-z0-9_]*$"
Name = Annotated[str, StringConstraints(pattern=NAME, max_length=64)]
CHAT_TEMPLATES = ("chatml", "gemma", "llama3", "none")
"""Built-in names for `chat_template`; their texts are in :mod:`finetune_pipeline.models.chat_templates`."""
License = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.\-]*$", max_length=60)]
Language = Annotated[str, StringConstraints(pattern=r"^([a-z]{2,3}|code|multilingual)$")]
Dataset = Annotated[str, StringConstraints(pattern=r"^[\w.\-]+(/[\w.\-]+)?$", max_length=120)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class CardSpec(Section):
    """Facts of the model card that cannot be measured (docs/release.md)."""

    license: License | None = Field(
        None, description="Hub id of the model's licence (`apache-2.0`). Unset: the base model's, else `other`."
    )
    license_link: Text | None = Field(None, description="Where to read it, if the Hub does not list it.")
    language: list[Language] = Field([], description="ISO 639 codes (`en`), `code` or `multilingual`.")
    datasets: list[Dataset] = Field([], description="Hub names of public data sets the rows come from.")
    data_licenses: list[Text] = Field([], description="Licences of the raw rows.")
    intended_use: Text | None = Field(None, description="Intended use, besides the description.")
    out_of_scope: Text | None = Field(None, description="What not to use it for.")


class ComputeSpec(Section):
    """Where steps other than training run. Results do not depend on it."""

    data: Literal["local", "ray"] = Field(
        "local",
        description="Where rows are validated, scrubbed and sketched: on this machine (for up to 300,000 rows), or on the "
        "cluster of `training.ray`.",
    )


class LogsSpec(Section):
    """Production logs, and the runs they start."""

    path: str = Field(
        "logs", description="Folder of JSON Lines files, or fsspec URL (s3://…), besides the task's `logs/`."
    )
    mlflow_experiment: str | None = Field(None, description="MLflow experiment whose traces are also read as logs.")
    keep_days: int | None = Field(
        None, ge=1, description="Older rows go at the end of the UTC day, and files in `logs/` with nothing newer."
    )
    low_score: float | None = Field(None, description="Lower scores count as failures.")
    sample_share: Share = Field(0.02, description="Share of unflagged answers that people review.")
    max_user_share: float = Field(
        0.1, gt=0, le=1, description="Largest share of the corrected rows from one user; five are always allowed."
    )
    max_family_share: float = Field(
        0.1, gt=0, le=1, description="Largest share of the corrected rows from one family of near-duplicates."
    )
    judging_share: float = Field(
        0.2, ge=0, lt=1, description="Share of later corrected rows reserved to compare models. 0: none."
    )
    judging_after: int = Field(100, ge=0, description="Corrected rows only for training before judging_share applies.")
    min_new_rows: int = Field(50, ge=1, description="Usable new rows before the sensor requests a run.")
    settle_seconds: int = Field(60, ge=0, description="Age in seconds at which a row counts as new row.")
    retrain_cron: str = Field("0 3 * * 1", description="Cron of the retraining schedule, in UTC (off by default).")


class DriftSpec(Section):
    """How production is monitored for drift. Drift is reported, but stops nothing."""

    window_rows: int = Field(100, ge=30, description="Production rows per window.")
    false_alarms: float = Field(0.05, gt=0, lt=1, description="Probability that a whole watch raises any false alarm.")
    expected_windows: int = Field(30, ge=1, description="Windows over which half of false_alarms is spent.")
    min_size: float = Field(0.05, ge=0, le=1, description="Smaller changes are not called drift.")
    feedback_days: float = Field(1.0, ge=0, description="Wait this long before judging a window's feedback.")
    action: Literal["tell", "propose", "start"] = Field(
        "propose", description="`tell` reports, `propose` suggests a run, `start` starts it."
    )


class RetrainingSpec(Section):
    """When to train again."""

    min_gain: float = Field(0.005, gt=0, lt=1, description="With a smaller expected gain (accuracy), wait.")
    rows_after_drift: int = Field(20, ge=1, description="New rows with a known answer required after drift.")
    longest_wait_days: float = Field(14, gt=0, description="A run is requested when the oldest new row is this old.")
    attempts: int = Field(3, ge=1, description="Runs for the same rows before a person is asked.")
    rollback: bool = Field(False, description="Roll back automatically on the champion alarm.")


class RolloutSpec(Section):
    """How a version that passed its gates takes over from the champion that `finetune serve` serves."""

    shadow_rows: int = Field(200, ge=30, description="Questions that it answers behind the champion, at least.")
    share: list[Annotated[int, Field(ge=1, le=99)]] = Field(
        [10, 50], description="Then its shares of the users or conversations in percent, rising."
    )
    share_rows: int = Field(200, ge=1, description="Answers of it at each share, at least.")
    margin: float = Field(
        0.05,
        gt=0,
        le=0.5,
        description="Share of right answers, or in free text of preferred ones, that it may lose, at most; proven before the "
        "first share.",
    )


class TaskSpec(Section):
    """The declaration of one task."""

    name: Name
    description: str = Field(min_length=1)
    owner: str = Field("team:ml", description="E-mail address or `team:name`, shown in Dagster.")
    base_model: str = Field(
        "bundled/smollm2-135m-instruct", description="`bundled/…`, a folder (from the project's root), or a Hub id."
    )
    base_revision: str | None = Field(None, description="Commit of a Hub model; pins the weights.")
    chat_template: str | None = Field(
        None,
        min_length=1,
        description="For bases without one: `chatml`, `gemma`, `llama3`, `none`, or a Jinja file in the task folder.",
    )
    system_prompt: str = Field(min_length=1, description="System prompt of every example, in training and production.")
    output: Annotated[AnyOutput, Field(discriminator="kind")]
    data: DataSpec = DataSpec()
    teacher: TeacherSpec | None = Field(
        None, description="A larger model that answers unlabelled rows; none unless set."
    )
    split: SplitSpec = SplitSpec()
    compute: ComputeSpec = ComputeSpec()
    baseline: BaselineSpec = BaselineSpec()
    advise: AdviseSpec = AdviseSpec()
    ladder: LadderSpec = LadderSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    robustness: RobustnessSpec = RobustnessSpec()
    automation: AutomationSpec = AutomationSpec()
    ability: AbilitySpec = AbilitySpec()
    gates: GatesSpec = GatesSpec()
    logs: LogsSpec = LogsSpec()
    drift: DriftSpec = DriftSpec()
    retraining: RetrainingSpec = RetrainingSpec()
    rollout: RolloutSpec | None = Field(
        None, description="A new version takes over in stages; unset: at once, if it passed its gates."
    )
    card: CardSpec = CardSpec()

    @property
    def labels(self) -> list[str]:
        """The label set; empty for tasks with free-form answers."""
        return self.output.labels if isinstance(self.output, LabelsOutput) else []

    @property
    def answer_length(self) -> int:
        """Longest generated answer, in tokens."""
        return self.baseline.max_new_tokens if isinstance(self.output, LabelsOutput) else self.output.max_new_tokens

    @property
    def decoded_schema(self) -> dict[str, object] | None:
        """The JSON schema that answers of trained models are decoded under; None if they are free."""
        if not isinstance(self.output, JsonOutput) or not self.evaluation.constrained_decoding:
            return None
        return self.output.json_schema if isinstance(self.output.json_schema, dict) else None

    @property
    def metric(self) -> str:
        """The metric of all scores: gates.metric, or the default of the kind of output."""
        return default_metric(self.output) if self.by_coverage else self.gates.metric or default_metric(self.output)

    @property
    def by_coverage(self) -> bool:
        """Whether gains are judged by the share of rows that a model answers by itself, and not by `metric`."""
        return self.gates.metric == COVERAGE

    @property
    def judged_metric(self) -> str:
        """The metric by which gains are judged."""
        return COVERAGE if self.by_coverage else self.metric


class Task(BaseModel):
    """A loaded spec and its folder (absolute)."""

    model_config = ConfigDict(frozen=True)
    spec: TaskSpec
    folder: Path

    @property
    def name(self) -> str:
        return self.spec.name
