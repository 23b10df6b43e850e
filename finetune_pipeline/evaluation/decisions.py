"""Parts of an evaluation's result: comparisons of models, what is decided from them, and the model to ship.

A number that was not measured, or is not finite, is None.
"""

from typing import Literal

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.result_parts import (
    Count,
    Flag,
    GateResult,
    Interval,
    Number,
    Part,
    Primary,
)

Mode = Literal["free", "restricted"]
"""How a prompted model answers: as it writes, or restricted to the allowed forms."""


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
    """The gain over one rival in one metric.

    Attributes:
        alone, rival_alone: With the metric `coverage`: the shares of rows that the two answer by themselves.
    """

    rival: str
    metric: str
    gain: Number = None
    interval: Interval = None
    confidence: Number = None
    shown: Flag = None
    alone: Number = None
    rival_alone: Number = None


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


class LabelErrors(Facts, frozen=True, kw_only=True):
    """What a teacher answers to rows of one label, among those whose answers it agrees on as for training rows.

    Attributes:
        label: The label that people gave.
        n, wrong: Rows with it, and those that the teacher answers otherwise.
        instead: Its most frequent wrong answer to them; empty without one.
    """

    label: str
    n: int
    wrong: int
    instead: str = ""


class TeacherRival(Part):
    """The candidate against the teacher, on the sealed rows (teacher_rival.compare_with_teacher).

    Attributes:
        name: The teacher's generator name.
        n: Rows that the teacher answered; of calls whose answer never came nothing is known.
        missing: Sealed rows to which the logs hold no answer of it (teacher.from_logs).
        score: The teacher's, in the deciding metric.
        comparison, decision: None with too few rows.
        beaten_by: Titles of the simple models that are surely better than the teacher.
        dollars_per_1k: Dollars for 1,000 of its answers, by the price list and the tokens that it reported.
        milliseconds: Median time of a call.
        kept, kept_wrong: Rows on whose answers the teacher agrees as for training rows, and those of them that are wrong: the
            noise of its training rows, if they are like the test.
        noise: Interval of the share kept_wrong / kept.
        worse_on: Labels on which it is surely wrong more often than on the others, the worst first.
    """

    name: str
    n: int
    missing: int = 0
    score: Primary
    comparison: Comparison | None
    decision: Decision | None
    beaten_by: list[str] = []
    dollars_per_1k: Number = None
    milliseconds: Number = None
    kept: int = 0
    kept_wrong: int = 0
    noise: Interval = None
    worse_on: list[LabelErrors] = []


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


class NeverBreak(Part):
    """Examples of gates.never_break that are not in the test (`missing`) or wrong (`broken`)."""

    listed: Count = None
    missing: list[str] | None = None
    broken: list[str] | None = None


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
