"""Typed facts of earlier steps that the evaluation reads. Other keys are kept unchanged."""

from finetune_pipeline.evaluation.judged_facts import Ability, JudgeFindings, People, Similarity
from finetune_pipeline.evaluation.result_parts import Count, Facts, Flag, Number, Part
from finetune_pipeline.models.hosted import HostedModel

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


class LoggedLoss(Facts):
    """One logged step of a training: loss on training rows, on validation, or both."""

    step: Number = None
    loss: Number = None
    eval_loss: Number = None


class Overfitting(Facts):
    """How the validation loss developed after its best step. `rise`: relative."""

    verdict: str = ""
    best_step: Count = None
    rise: Number = None


class SharedPrefix(Facts):
    """Whether the common beginning of all rows was computed once."""

    used: Flag = None
    why: str = ""
    prefix_tokens: Count = None


class SoftPrompt(Facts):
    """How the virtual tokens were initialised."""

    init: str = ""
    virtual_tokens: Count = None


class Rounding(Facts):
    """Validation loss of full weights as they are stored."""

    dtype: str = ""
    eval_loss: Number = None


class Weights(Facts):
    """`ratio`: the size of the base weights in memory, relative to 16 bits."""

    ratio: Number = None


class MicroBatch(Facts):
    """Rows of one pass in training: as declared, and as used because they fit into memory."""

    declared: Count = None
    used: Count = None


class Measured(Facts):
    """Time in seconds and memory in MiB of a step's process. `resumed_from`: the checkpoint from which training resumed.
    `billed_tokens`, `dollars`: the cost of a training as the service reports it."""

    seconds: Number = None
    cpu_seconds: Number = None
    train_seconds: Number = None
    peak_memory_mib: Number = None
    resumed_from: str | None = None
    billed_tokens: Count = None
    dollars: Number = None


class Training(Facts):
    """Facts of the step adapter. `endpoint`: for a model without local weights."""

    method: str | None = None
    endpoint: HostedModel | None = None
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
    micro_batch: MicroBatch = MicroBatch()
    measured: Measured = Measured()


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


class Parity(Facts):
    """The served model compared with the trained one on `rows` rows. `mean_kl`: nats per token."""

    rows: Count = None
    same_greedy_share: Number = None
    mean_kl: Number = None
    mean_kl_limit: Number = None
    passed: Flag = True
    kind: str | None = None


class Spread(Facts):
    """Minimum, median, 99th percentile and maximum."""

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
        return int(getattr(self, name))


class RequestTokens(Facts):
    """Mean tokens per request."""

    prompt: float
    answer: float


class TimeRange(Facts):
    """A range of seconds."""

    low: Number = None
    high: Number = None


class RequestPrice(Facts):
    """Dollars per 1,000 requests to one model. evaluated: whether the candidate was compared with this API model."""

    where: str
    how: str
    dollars: float
    date: str
    evaluated: bool = False


class Cost(Facts):
    """Time, memory and tokens of training and using the candidate (predictions.costs), and requests by the price list."""

    steps: dict[str, Measured] = {}
    seconds: Number = None
    planned: TimeRange | None = None
    tokens: dict[str, RequestTokens] = {}
    saved_share: Number = None
    requests: list[RequestPrice] = []


class QualityPart(Facts):
    """One question asked of all rows."""

    passed: Flag = None
    message: str = ""


class QualityTokens(Facts):
    """Tokens of whole rows."""

    whole: Spread | None = None


class Quality(Facts):
    """Facts of data_quality."""

    parts: dict[str, QualityPart] | None = None
    tokens: QualityTokens | None = None


class StepFacts(Part):
    """Facts of earlier steps that the evaluation reads. `supervision`: the audit's counters, by split."""

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
