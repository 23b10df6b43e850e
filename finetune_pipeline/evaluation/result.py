"""The result of an evaluation: typed, with a published JSON schema.

A number that was not measured, or is not finite, is None.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from finetune_pipeline.data.quality.parts import QualityFacts
from finetune_pipeline.evaluation.ability.drop import Ability
from finetune_pipeline.evaluation.costs import Cost
from finetune_pipeline.evaluation.preferences.judge import JudgeFindings, Similarity
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.result_parts import (
    ChosenRows,
    Count,
    Facts,
    Flag,
    GateResult,
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
from finetune_pipeline.training.facts import AnyTraining

Mode = Literal["free", "restricted"]
"""How a prompted model answers: as it writes, or restricted to the allowed forms."""


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


class Comparison(Part):
    """The candidate against another model, paired by row (see compare.compare).

    Attributes:
        b, c: Rows only the other model has right, and rows only the candidate has.
        gain: Of the candidate, in `metric`, like `base` and `candidate`.
        right_before: Rows that the other model has right; lost_interval: interval of the share of these that the candidate
            gets wrong; least_lost: the upper bound if it got none wrong.
        design_effect: Rows per effectively independent row if rows share sources; else 1.
        smallest_detectable_gain: Of the share of correct answers, at power 0.8; None: no gain is detectable.
        metric_p: Of the deciding metric; None for F1.
        fixed, broken: Ids that only the candidate, or only the other model, has right. Sorted.
    """

    metric: str
    n: int
    confidence: float
    base: Number = None
    candidate: Number = None
    b: Count = None
    c: Count = None
    discordant_share: Number = None
    gain: Number = None
    interval: Interval = None
    mcnemar_p: Number = None
    mcnemar_p_holm: Number = None
    metric_p: Number = None
    macro_f1_interval: Interval = None
    right_before: Count = None
    lost_interval: Interval = None
    least_lost: Number = None
    design_effect: Number = None
    smallest_detectable_gain: Number = None
    fixed: list[str] = []
    broken: list[str] = []


class RivalGain(Part):
    """The gain over one rival in one metric."""

    rival: str
    metric: str
    gain: Number = None
    interval: Interval = None
    confidence: Number = None
    shown: Flag = None


class Decision(Part):
    """Whether every gain surely exceeds `margin` (see deciding.decide_gain)."""

    margin: Number = None
    shown: Flag = None
    gains: list[RivalGain] = []


class Decisions(Part):
    """The decisions behind the gates on gains. `champion` is None if none is in service."""

    baseline: Decision
    simple: Decision
    champion: Decision | None


class TeacherRival(Part):
    """The candidate against the teacher, on the sealed rows (teacher_rival.compare_with_teacher).

    Attributes:
        name: The teacher's generator name.
        n: Rows that the teacher answered; of calls whose answer never came nothing is known.
        score: The teacher's, in the deciding metric.
        comparison, decision: None with too few rows.
        beaten_by: Titles of the simple models that are surely better than the teacher.
        dollars_per_1k: Dollars for 1,000 of its answers, by the price list and the tokens that it reported.
        milliseconds: Median time of a call.
        kept, kept_wrong: Rows on whose answers the teacher agrees as for training rows, and those of them that are wrong: the
            noise of its training rows, if they are like the test.
        noise: Interval of the share kept_wrong / kept.
    """

    name: str
    n: int
    score: Primary
    comparison: Comparison | None
    decision: Decision | None
    beaten_by: list[str] = []
    dollars_per_1k: Number = None
    milliseconds: Number = None
    kept: int = 0
    kept_wrong: int = 0
    noise: Interval = None


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


class BaseMode(Part):
    """Which answers of the base model decide (see rivals.base_at_its_best)."""

    mode: Mode
    valid_share: Number = None


class FormOf(Part):
    """Accuracy of free and restricted answers of one model, and their difference."""

    free: Number = None
    restricted: Number = None
    gap: Number = None
    valid_share: Number = None


class FormGap(Part):
    """The part of a model's error due to form. `closed_by_decoding`: share of the candidate's gain that restricting the base
    model's answers reaches without training; None if the candidate gains nothing."""

    base: FormOf
    candidate: FormOf
    closed_by_decoding: Number = None


class Level(Part):
    """The level at which this candidate is judged (see deciding.level_of). `look`: how many candidates the test has judged,
    including this one; `spent`: bound on the chance of a useless promotion so far."""

    look: Count = None
    level: Number = None
    confidence: Number = None
    alpha: Number = None
    spent: Number = None


class Seal(Part):
    """Openings of the sealed test. `recorded`: whether the ledger has this candidate; `optimism`: by how much choosing the
    best of all candidates inflates its accuracy."""

    openings: list[dict[str, JsonValue]]
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


class NeverBreak(Part):
    """Examples of gates.never_break that are not in the test (`missing`) or wrong (`broken`)."""

    listed: Count = None
    missing: list[str] | None = None
    broken: list[str] | None = None


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


class Promoted(Part):
    """The registered version that the evaluated model is. `serves`: whether it is the champion."""

    model_version: int
    serves: bool


class DefaultGate(Part):
    """A gate that does not pass by the default thresholds, though it passed by those of the spec."""

    name: str
    message: str


WinnerKind = Literal["tuned", "classifier", "simple", "prompt"]


class Finalist(Part):
    """A model that is shipped where the fine-tuned one is not surely better: the best simple model, or the best prompt, on
    validation (see finalists.finalists_of).

    Attributes:
        name: Of a simple model, or of a prompt of the baseline.
        mode: Of a prompt.
        title: Name inside a sentence.
        beaten_by: Titles of the models that are surely better on the sealed test.
        commonest: Whether it is surely better than always giving the commonest answer.
        champion: Whether it is surely better than the champion; None if none is in service.
        beside_champion: The rows that it wins and loses against the champion.
        score_interval: As of EvaluationResult.
        gates: Empty until they have judged.
    """

    kind: Literal["simple", "prompt"]
    name: str
    mode: Mode | None
    title: str
    beaten_by: list[str]
    commonest: Decision
    champion: Decision | None
    beside_champion: Comparison | None
    never_break: NeverBreak
    score_interval: Interval
    gates: list[GateResult] = []


class Winner(Part):
    """The model to ship (see winner.winner_of).

    Attributes:
        kind: None: nothing is shipped.
        name: `candidate`, the name of a simple model, or that of a prompt of the baseline.
        mode: Of a prompt.
        title: Name inside a sentence.
        why: The reason, as a sentence.
    """

    kind: WinnerKind | None = None
    name: str | None = None
    mode: Mode | None = None
    title: str = ""
    why: str = ""


class Loosened(Part):
    """Thresholds looser than their defaults, as `KEY VALUE (default DEFAULT)`, and what the defaults would have held back."""

    thresholds: list[str] = []
    held_back_by: list[DefaultGate] = []


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
    nothing was trained."""

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
    loosened: Loosened = Loosened()
    score_interval: Interval = None
    probabilities: dict[str, Probabilities] = {}
    finalists: list[Finalist] = []
    winner: Winner = Winner()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON under the published names, as in report.json."""
        return dict(json.loads(self.model_dump_json(by_alias=True, exclude_unset=True)))  # NaN reads null
