"""The result of an evaluation: typed, with a published JSON schema.

A number that was not measured, or is not finite, is None.
"""

from typing import Annotated, NotRequired

from pydantic import Field, JsonValue
from typing_extensions import TypedDict  # before Python 3.12 pydantic takes no other

from finetune_pipeline.data.people import ReviewersAgreement
from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.evaluation.ability.drop import Ability
from finetune_pipeline.evaluation.costs import Cost
from finetune_pipeline.evaluation.decisions import (
    BaseMode,
    Comparison,
    Decision,
    Decisions,
    Finalist,
    FormGap,
    Level,
    Loosened,
    NeverBreak,
    Promoted,
    TeacherRival,
    Winner,
    WinnerKind,
)
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings, Similarity
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.result_parts import (
    ChosenRows,
    Count,
    Facts,
    Flag,
    Interval,
    ModelRow,
    Number,
    Part,
    Primary,
    Probabilities,
    Robustness,
    Scores,
    Sources,
)
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.training.audit import SplitAudit
from finetune_pipeline.training.facts import AnyTraining, RefinedChoice


class Task(Part):
    """The task as declared in the spec."""

    name: str
    description: str
    kind: str
    labels: list[str]
    base_model: str
    base_revision: str | None
    method: str
    system_prompt: str | None


class PartOfTest(Part):
    """The test rows from certain raw files.

    Attributes:
        files: The glob of gates.parts; None: every other row.
        comparison: Candidate against the base model at its best; None if no row is from these files.
        decision: None if no gain is required here, or there are too few rows.
    """

    files: str | None
    n: int
    models: dict[str, ModelRow]
    comparison: Comparison | None
    decision: Decision | None


class Opening(TypedDict):
    """An opening of the sealed test.

    Attributes:
        test: Version of the test set; rows: the list of its rows, by their digest.
        candidate, metric, rules: Of sealed.Judgement. Entries of earlier releases stand for any metric and any rules.
        shared: The share of today's rows that it showed.
    """

    test: str
    candidate: str
    metric: NotRequired[str]
    rules: NotRequired[str]
    rows: NotRequired[str]
    reason: NotRequired[str]
    who: NotRequired[str]
    time: NotRequired[str]
    shared: NotRequired[float]


class Seal(Part):
    """Openings of the sealed test. `recorded`: whether the ledger has this candidate; `optimism`: by how much choosing the
    best of all candidates inflates its accuracy."""

    openings: list[Opening] = []
    count: Count = None
    candidates: Count = None
    recorded: Flag = None
    optimism: Number = None
    level: Level = Level()


class ChangedRows(Part):
    """Rows on which two models differ: how many, and the ids of those shown."""

    total: int
    shown: list[str]


class WrongAnswers(Part):
    """Wrong answers with one right and one given label. `examples`: ids of those shown."""

    gold: str
    predicted: str
    count: int
    examples: list[str]


class AtlasGroup(Part):
    """Similar wrong answers of one kind (see atlas.failure_atlas). `nearest`: ids of training rows."""

    kind: str
    title: str
    detail: str
    terms: list[str]
    count: int
    share_with_term: Number = None
    interval: Interval = None
    ids: list[str] = []
    nearest: list[str] = []
    collect: int = 0
    advice: str = ""


class Atlas(Part):
    """Every wrong answer of the candidate, grouped."""

    n: int
    wrong: int
    kinds: dict[str, int]
    groups: list[AtlasGroup]


class EarlierVersion(Part):
    """The candidate against an earlier one, on the rows both answered."""

    candidate: str
    rows: int
    fixed: int
    broken: int
    both_right: int
    both_wrong: int


class RowsOverVersions(Part):
    """Test rows by how often they were right over all versions."""

    always_right: int
    never_right: int
    changing: int


class History(Part):
    """The test rows over all versions judged on them (see regression_ledger.regressions)."""

    versions: list[EarlierVersion]
    rows: RowsOverVersions
    lost: list[str]
    lost_total: int


class Production(Part):
    """Recent production rows. `judged`: whether there are enough to compare models by."""

    n: Count = None
    judged: Flag = None
    rows: ChosenRows = ChosenRows()
    comparisons: dict[str, Comparison] = {}
    metric: str | None = None
    scores: dict[str, Primary] = {}


Counts = dict[str, int | dict[str, int | None] | None]
"""Rows by name, or by two names."""


class Power(Facts):
    """Whether the test can show the required gain (planning.power)."""

    must_reach: Number = None
    enough: Flag = None
    sentence: str = ""


class Advice(Facts):
    """The advice before training (baseline.decision)."""

    decision: str
    reasons: list[str]


class Baseline(Facts):
    """Facts of few_shot_baseline and advice. `best`: the best prompt."""

    best: str | None = None
    power: Power | None = None
    advice: Advice | None = None


class RawFile(Facts):
    file: str = ""
    sha256: str = ""
    bytes: int | None = None


class DataStep(Facts):
    """Rows in and out of one data step, and what it found. `counts`: rows by split, or by split and label."""

    lines: Count = None
    rows_in: Count = None
    kept: Count = None
    quarantined: Count = None
    exact_duplicates: Count = None
    near_duplicates: Count = None
    dropped: Count = None
    files: list[RawFile] = []
    by_rule: dict[str, Count] = {}
    scrubbed: dict[str, Count] = {}
    counts: Counts = {}
    labels: Counts = {}
    origins: Counts = {}
    leaks: dict[str, Count] | int | None = None


class StepFacts(Part):
    """Facts of earlier steps that the evaluation reads. `supervision`: the audit's counters, by split. training, parity: None where
    nothing was trained. `agreement`: of the people who answered rows for test and validation."""

    baseline: Baseline
    training: Annotated[AnyTraining | None, Field(union_mode="left_to_right")]
    data: dict[str, DataStep]
    parity: Parity | None
    ability: Ability | None = None
    people: People | None = None
    judge: JudgeFindings | None = None
    similarity: Similarity | None = None
    supervision: dict[str, SplitAudit] | None = None
    cost: Cost | None = None
    quality: QualityFacts | None = None
    agreement: ReviewersAgreement | None = None


class EvaluationResult(StepFacts):
    """Everything that report and gates need to know about one candidate: numbers, names and ids, but no texts of rows (see
    atlas.ShownRows).

    Attributes:
        metric: The deciding metric.
        confidence: Of all intervals except those in `decisions`.
        models: Rows of the table that shows all models side by side, by name.
        scores: On the sealed test, by model: base (as it writes freely), candidate, champion, api, simple_NAME.
        restricted: The same with answers restricted to the allowed forms, of base and candidate.
        comparison: The main one: the candidate against the base model at its best, without ids.
        comparisons: `baseline`, `champion` (None without one), `base_restricted`, `api`, `simple_NAME`.
        versions: Of every artifact used; `champion`: the version in service, if any.
        gate_settings: The settings of the gates.
        promoted: Set if the model was promoted earlier: then nothing is decided about it.
        loosened: Thresholds of the spec that ask for less than the defaults.
        score_interval: Of the candidate's score in `metric`, at the level of this judgement.
        probabilities: Of the candidate and the finalists, by row of `models`; only of those that have some.
        finalists: What may be shipped in its place, simplest first.
        winner: What is shipped; none before the gates have judged.
        untrained: Why nothing was trained, as a sentence; empty if a model was. `candidate` is then what is shipped, or else the
            simplest finalist: its answers stand under that name, too.
        champion_learned: Number of test rows that the champion was trained on, as after split.restart. They are left out wherever
            the candidate is compared with it.
        teacher: The candidate against the teacher, if one is declared.
        stages: The second stage's model against the first stage's on the sealed test; None where the first one goes on.
        champion_kind, champion_name: Of the champion in service, as of a Winner.
        champion_forgotten: Whether the champion was trained on rows forgotten since: then a tie does not keep it in service.
    """

    task: Task
    metric: str
    confidence: float
    n: int
    models: dict[str, ModelRow]
    scores: dict[str, Scores]
    restricted: dict[str, Scores | None]
    base_at_its_best: BaseMode
    comparison: Comparison
    comparisons: dict[str, Comparison | None]
    format_gap: FormGap | None
    regressions: ChangedRows
    fixes: ChangedRows
    wrong_answers: list[WrongAnswers]
    atlas: Atlas
    seal: Seal
    decisions: Decisions
    parts: list[PartOfTest]
    sources: Sources
    never_break: NeverBreak
    history: History
    robustness: Robustness | None
    production: Production | None
    versions: dict[str, str | None]
    gate_settings: dict[str, JsonValue]
    promoted: Promoted | None = None
    untrained: str = ""
    champion_forgotten: bool = False
    champion_kind: WinnerKind | None = None
    champion_name: str | None = None
    champion_learned: int = 0
    teacher: TeacherRival | None = None
    stages: RefinedChoice | None = None
    loosened: Loosened = Loosened()
    score_interval: Interval = None
    probabilities: dict[str, Probabilities] = {}
    finalists: list[Finalist] = []
    winner: Winner = Winner()
