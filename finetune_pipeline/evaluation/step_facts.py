"""Typed facts of earlier steps, as far as the evaluation reads them. Other keys are kept unchanged."""

from __future__ import annotations

from finetune_pipeline.evaluation.result_parts import Count, Facts, Flag, Interval, Number, Part

Counts = dict[str, int | dict[str, int | None] | None]
"""Rows by name, or by two names."""


class Power(Facts):
    """Whether the test can show the wanted gain (planning.power)."""

    before: Number = None
    detectable_gain: Number = None
    enough: Flag = None
    sentence: str = ""


class Advice(Facts):
    """What was advised before training (planning.advice)."""

    decision: str
    reasons: list[str]


class Baseline(Facts):
    """Of few_shot_baseline and advice. `best`: the best prompt; `best_restricted`: the best with restricted answers."""

    best: str | None = None
    best_restricted: str | None = None
    power: Power | None = None
    advice: Advice | None = None


class LoggedLoss(Facts):
    """One logged step of a training: loss on training rows, on validation, or both."""

    step: Number = None
    loss: Number = None
    eval_loss: Number = None


class Overfitting(Facts):
    """How the validation loss went after its best step. `rise`: relative."""

    verdict: str = ""
    best_step: Count = None
    rise: Number = None


class SharedPrefix(Facts):
    """Whether the common beginning of all rows was computed once."""

    used: Flag = None
    why: str = ""
    prefix_tokens: Count = None


class SoftPrompt(Facts):
    """What virtual tokens were begun from."""

    init: str = ""
    virtual_tokens: Count = None


class Rounding(Facts):
    """Validation loss of full weights as they are stored."""

    dtype: str = ""
    eval_loss: Number = None


class Weights(Facts):
    """`ratio`: base weights in memory, of their size in 16 bits."""

    ratio: Number = None


class Measured(Facts):
    """Time in seconds and memory in MiB of a step's process. `resumed_from`: the step a training was taken up again at."""

    seconds: Number = None
    cpu_seconds: Number = None
    train_seconds: Number = None
    peak_memory_mib: Number = None
    resumed_from: Count = None


class Training(Facts):
    """Of the step adapter."""

    method: str | None = None
    precision: str | None = None
    steps: Count = None
    best_step: Count = None
    stopped_early: Flag = None
    first_eval_loss: Number = None
    best_eval_loss: Number = None
    trainable_parameters: Count = None
    total_parameters: Count = None
    history: list[LoggedLoss] = []
    overfitting: Overfitting = Overfitting()
    weights: Weights = Weights()
    shared_prefix: SharedPrefix = SharedPrefix()
    begun: SoftPrompt | None = None
    rounding: Rounding | None = None
    measured: Measured = Measured()


class RawFile(Facts):
    """One raw file."""

    file: str = ""
    lines: Count = None
    shape: str = ""
    sha256: str = ""


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


class Parity(Facts):
    """What is served against what was trained, on `rows` rows. `mean_kl`: nats a token."""

    rows: Count = None
    same_greedy_share: Number = None
    mean_kl: Number = None
    mean_kl_limit: Number = None
    passed: Flag = True
    kind: str | None = None


class Accuracy(Facts):
    """Accuracy with its interval."""

    accuracy: Number = None
    interval: Interval = None


class Loss(Facts):
    """Accuracy lost on questions (positive: worse), with its interval."""

    n: Count = None
    drop: Number = None
    interval: Interval = None


class Category(Loss):
    """One category before and after; `unit`: accuracy or bits_per_byte."""

    unit: str = "accuracy"
    before: Number = None
    after: Number = None


class TextCost(Facts):
    """Bits a byte of plain text before and after training (positive rise: worse)."""

    before: Number = None
    after: Number = None
    rise: Number = None
    interval: Interval = None


class AbilityLoss(Loss):
    """General ability before and after (ability.drop.ability_drop). `items`: how many were asked."""

    items: Count = None
    unscored: Count = None
    before: Accuracy = Accuracy()
    after: Accuracy = Accuracy()
    lost: Count = None
    gained: Count = None
    mcnemar_p: Number = None
    smallest_visible: Number = None
    text: TextCost | None = None
    categories: dict[str, Category] = {}
    benchmarks: dict[str, Loss] = {}
    lost_items: list[str] = []
    failed: list[str] = []


class HarnessTask(Facts):
    """One task of lm-evaluation-harness."""

    metric: str = ""
    rows: int = 0
    shots: int = 0


class Harness(Facts):
    """What lm-evaluation-harness ran. `lm_eval`: its version."""

    lm_eval: str = ""
    tasks: dict[str, HarnessTask] = {}


class Ability(AbilityLoss):
    """Of general_ability, against the base model and against the champion in service."""

    harness: Harness | None = None
    champion: AbilityLoss | None = None


class Accepted(Facts):
    """Share of a model's answers that people accept."""

    share: Number = None
    interval: Interval = None


class Ratings(Facts):
    """Answers judged by people; `candidate`, `base` and `gain` only where they were drawn at random."""

    n: Count = None
    only_candidate: Count = None
    only_base: Count = None
    both: Count = None
    neither: Count = None
    candidate: Accepted = Accepted()
    base: Accepted = Accepted()
    gain: Number = None
    interval: Interval = None
    p: Number = None


class Agreement(Facts):
    """Of people with each other. `kappa`: Cohen's, None where it is undefined."""

    items: int
    share: Number = None
    kappa: Number = None


class Comment(Facts):
    """What a person wrote about one example, and which answers they accept."""

    id: str
    candidate: bool
    base: bool
    comment: str
    rater: str


class People(Facts):
    """Of human_review (people.summary.summarise)."""

    rated: int = 0
    raters: dict[str, int] = {}
    random: Ratings | None = None
    selected: Ratings | None = None
    agreement: Agreement | None = None
    comments: list[Comment] = []
    of_earlier_candidates: int = 0


class Preferred(Facts):
    """A sign test of one choice against another."""

    wins: int = 0
    losses: int = 0
    ties: int = 0
    equal: int = 0
    failed: int = 0
    share: Number = None
    interval: Interval = None
    p: Number = None


class JudgeFindings(Facts):
    """A judging model: whether it is believed, why not, and what it prefers (preferences.compared.judged_pairs)."""

    name: str = "the judge"
    believed: Flag = None
    refused: list[str] = []
    rated: int = 0
    kappa: Number = None
    interval: Interval = None
    agreement: Number = None
    consistent: Number = None
    place: Preferred = Preferred()
    length: Preferred = Preferred()
    padding: Preferred = Preferred()
    verdict: Preferred | None = None


class Similarity(Facts):
    """Likeness to the reference answers by embeddings (preferences.compared.similar)."""

    model: str
    n: int
    base: float
    candidate: float
    gain: float
    interval: tuple[float, float]
    rated: int = 0
    kappa: Number = None
    kappa_interval: Interval = None


class Spread(Facts):
    """Least, median and most."""

    min: Count = None
    p50: Count = None
    p99: Count = None
    max: Count = None


class AuditedRow(Facts):
    """A row token by token: `pieces` holds text, kind (loss, context, lost) and whether it is a special token."""

    id: str
    why: str = ""
    fault: str = ""
    place: str = ""
    tokens: int = 0
    loss_tokens: int = 0
    tokens_lost: int = 0
    pieces: list[tuple[str, str, bool]] = []


class AuditProblem(Facts):
    """A fault of supervision that stops the training."""

    place: str
    message: str
    fix: str


class Audit(Facts):
    """Supervision of one split (training.audit). Its counters are further keys; see `count`."""

    rows: int = 0
    tokens: int = 0
    loss_tokens: int = 0
    tokens_per_row: Spread | None = None
    loss_tokens_per_row: Spread | None = None
    shown: list[AuditedRow] = []
    problems: list[AuditProblem] = []

    def count(self, name: str) -> int:
        """Return one counter of the audit."""
        return int(getattr(self, name))


class RequestTokens(Facts):
    """Mean tokens of a request."""

    prompt: float
    answer: float


class TimeRange(Facts):
    """Seconds."""

    low: Number = None
    high: Number = None


class Cost(Facts):
    """Time, memory and tokens of making and asking the candidate (costs.costs)."""

    steps: dict[str, Measured] = {}
    seconds: Number = None
    planned: TimeRange | None = None
    tokens: dict[str, RequestTokens] = {}
    saved_share: Number = None


class QualityPart(Facts):
    """One question asked of all rows."""

    passed: Flag = None
    message: str = ""


class QualityTokens(Facts):
    """Tokens of whole rows."""

    whole: Spread | None = None


class Quality(Facts):
    """Of data_quality."""

    parts: dict[str, QualityPart] | None = None
    tokens: QualityTokens | None = None


class StepFacts(Part):
    """What earlier steps found, each part as far as the evaluation reads it.

    Attributes:
        baseline: Of few_shot_baseline (see rivals.score_baselines) and advice.
        training: Of adapter, with `measured`.
        data: By data step, in order.
        parity: Of the merge.
        supervision: The counters of the audit, by split.
        cost: See predictions.costs.
    """

    baseline: Baseline
    training: Training
    data: dict[str, DataStep]
    parity: Parity
    ability: Ability | None = None
    people: People | None = None
    judge: JudgeFindings | None = None
    similarity: Similarity | None = None
    supervision: dict[str, Audit] | None = None
    cost: Cost | None = None
    quality: Quality | None = None
