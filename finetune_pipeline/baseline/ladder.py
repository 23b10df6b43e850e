"""The ladder: simple models, prompts, retrieval, pilot and fine-tuning, all measured on the same validation rows."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_pipeline.baseline.learning_curve import Extrapolation, Point
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import API, in_order, prompts_of
from finetune_pipeline.evaluation.prompts import DOCUMENTS, EMBEDDED, NEAREST, fixed_prompts
from finetune_pipeline.evaluation.rivals import MIN_IN_FORM, restricted_rows, simple_rows
from finetune_pipeline.evaluation.scores import valid_share
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
from finetune_pipeline.evaluation.wording import dollars
from finetune_pipeline.planning.serving_costs import Call
from finetune_pipeline.spec.model import TaskSpec

Rows = Mapping[str, Sequence[Row]]
Kind = Literal["simple", "prompt", "retrieve", "documents", "api", "tuned"]
FOLDS = (0, 1)
"""Folds for cross-fitting: choose on one, score on the other, because the best of several noisy scores is too high (Cawley and
Talbot 2010, JMLR 11)."""


@dataclass(frozen=True)
class Answered:
    """The answers of one rung, before scoring. call: tokens per call of a prompt."""

    name: str
    kind: Kind
    title: str
    rows: Sequence[Row]
    call: Call | None = None


class Rung(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """One rung.

    Attributes:
        value: In the deciding metric.
        gain: Over the best rung below, with its interval at the Bonferroni-corrected confidence.
        dollars: Of 1,000 calls; None if no price is known.
        p50, p95: Milliseconds per call on this machine; None if not measured.
        excluded: Why it is excluded, else empty.
    """

    name: str
    kind: Kind
    title: str
    value: float
    interval: tuple[float, float] | None
    gain: float | None = None
    gain_interval: tuple[float, float] | None = None
    over: str = ""
    dollars: float | None = None
    p50: float | None = None
    p95: float | None = None
    excluded: str = ""


class Ladder(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of ladder and tuned_rungs.

    Attributes:
        stands: The simplest rung that no later one significantly beats.
        decision: A key of decision.DECISIONS.
        flips: What would change the answer.
        skipped: Why a rung was skipped, by rung.
    """

    metric: str
    rows: int
    confidence: float
    rungs: list[Rung]
    points: list[Point]
    expected: Extrapolation | None
    stands: str
    decision: str
    sentence: str
    reasons: list[str]
    flips: list[str]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Terms:
    """Costs of calls and training, and latencies.

    Attributes:
        dollars: Of 1,000 calls, by rung.
        latency: (p50, p95) in milliseconds by rung.
        training: Dollars of training on all rows; None if no price is known.
        tuned_dollars: Of 1,000 calls of the fine-tuned model.
        teacher_row: Of a row that a teacher answers and that is kept; None: nobody sells rows.
    """

    dollars: Mapping[str, float | None]
    latency: Mapping[str, tuple[float, float]]
    training: float | None = None
    tuned_dollars: float | None = None
    teacher_row: float | None = None


def rung_answers(spec: TaskSpec, rows: Rows, tokens: Mapping[str, Call], sources: SourceOf = None) -> list[Answered]:
    """The answers of every rung below training, simplest first; choices among candidates are cross-fitted.

    Args:
        rows: Validation rows by prompt, restricted prompt and simple model (few_shot_baseline).
        tokens: Tokens per call, by prompt.
        sources: What each example was made from, by id.
    """
    names = prompts_of(rows)
    base_prompts = [name for name in names if not name.startswith(API)]
    prompted_ids = {row["example_id"] for row in rows[names[0]]}
    simple = {
        name: [row for row in answers if row["example_id"] in prompted_ids]
        for name, answers in simple_rows(rows).items()
    }
    prompt_rungs: tuple[tuple[Kind, str, list[str]], ...] = (
        ("prompt", "The best prompt", fixed_prompts(names)),
        ("retrieve", "Retrieval of examples", [name for name in base_prompts if name.endswith((NEAREST, EMBEDDED))]),
        ("documents", "Retrieval of passages", [name for name in base_prompts if name.endswith(DOCUMENTS)]),
        ("api", "The API model", [name for name in names if name.startswith(API)]),
    )
    return [
        *(Answered(name, "simple", SIMPLE_MODELS[name].title, answers) for name, answers in simple.items()),
        *(
            answered
            for kind, title, prompts in prompt_rungs
            for answered in _prompt_rungs(spec, kind, title, prompts, rows, tokens, sources)
        ),
    ]


def _prompt_rungs(
    spec: TaskSpec,
    kind: Kind,
    title: str,
    prompts: list[str],
    rows: Rows,
    tokens: Mapping[str, Call],
    sources: SourceOf,
) -> list[Answered]:
    """One or two rungs of one kind: the best prompt by its free answers, among those with enough answers in form if there are
    any; and the best by its answers restricted to the allowed forms, if available."""
    in_form = [name for name in prompts if (valid_share(rows[name], spec.output).share or 0.0) >= MIN_IN_FORM]
    free = {name: rows[name] for name in in_form or prompts}
    restricted = {name: answers for name in prompts if (answers := restricted_rows(rows, name, spec.output))}
    rungs = []
    for candidates, name, suffix in ((free, kind, ""), (restricted, f"{kind}_restricted", ", restricted answers")):
        if candidates:
            (chosen, _), answers = cross_fitted(spec, candidates, sources)
            rungs.append(Answered(name, kind, f"{title}{suffix}", answers, tokens.get(chosen)))
    return rungs


def fold_of(source: str) -> int:
    """The fold of a source and all its rows: a hash of its name, so that new rows do not move old ones."""
    return hashlib.sha256(f"fold:{source}".encode("utf-8", "surrogatepass")).digest()[0] % len(FOLDS)


def cross_fitted(
    spec: TaskSpec, candidates: Rows, sources: SourceOf = None
) -> tuple[list[str], list[dict[str, object]]]:
    """Choose among candidates on one fold and take the answers on the other, both ways. Ties go to the first candidate.

    Returns (the candidate chosen for each fold, the answers in the order of example ids).
    """

    def in_fold(rows: Sequence[Row], fold: int) -> list[dict[str, object]]:
        source_of = {row["example_id"]: row["example_id"] for row in rows} if sources is None else sources
        return [dict(row) for row in rows if fold_of(source_of[row["example_id"]]) == fold]

    metric = METRICS[spec.metric]
    chosen, answers = [], []
    for fold in FOLDS:
        choosing_rows = {name: in_fold(rows, 1 - fold) for name, rows in candidates.items()}
        best = max(choosing_rows, key=lambda name: metric.rank(metric.value(choosing_rows[name], spec.output)))
        chosen.append(best)
        answers += in_fold(candidates[best], fold)
    return chosen, in_order(answers)


@dataclass(frozen=True)
class Scored:
    """The scored rungs.

    Attributes:
        stands: The simplest allowed rung that no later allowed one significantly beats; the first if all are excluded.
        rival: The best allowed rung without training, which training must beat.
    """

    rungs: list[Rung]
    stands: Rung
    rival: Rung
    rival_rows: Sequence[Row]


def score_rungs(spec: TaskSpec, answered: Sequence[Answered], terms: Terms, sources: SourceOf = None) -> Scored:
    """Score every rung, and compare it by row with the allowed rung below that stands; a tuned one with the rival. Intervals count
    sources if rows share them."""
    metric, confidence = METRICS[spec.metric], shared_confidence(spec.gates.confidence, len(answered) - 1)
    rungs: list[Rung] = []
    stands: int | None = None  # an index in `answered` and `rungs`, like `rival`
    rival: int | None = None
    for index, answers in enumerate(answered):
        compared = stands
        if answers.kind == "tuned" and stands is not None and rungs[stands].kind != "tuned":
            compared = rival
        clusters = shared_sources(answers.rows, sources)
        below = None if compared is None else answered[compared]
        gain = metric.gain(below.rows, answers.rows, spec.output, confidence, clusters) if below else None
        p50, p95 = terms.latency.get(answers.name, (None, None))
        cost = terms.dollars.get(answers.name)
        rung = Rung(
            name=answers.name,
            kind=answers.kind,
            title=answers.title,
            value=metric.score(answers.rows, spec.output),
            interval=metric.interval(answers.rows, spec.output, spec.gates.confidence, clusters),
            gain=gain.gain if gain else None,
            gain_interval=gain.interval if gain else None,
            over=below.title if below else "",
            dollars=cost,
            p50=p50,
            p95=p95,
            excluded=_excluded(spec, cost, p95),
        )
        rungs.append(rung)
        if rung.excluded:
            continue
        if gain is None or gain.surely_above():
            stands = index
        if rung.kind != "tuned" and (rival is None or metric.rank(rung.value) > metric.rank(rungs[rival].value)):
            rival = index
    return Scored(rungs, rungs[stands or 0], rungs[rival or 0], answered[rival or 0].rows)


def _excluded(spec: TaskSpec, cost: float | None, p95: float | None) -> str:
    max_cost, max_latency = spec.advise.max_cost_per_1k, spec.advise.max_latency_ms
    reasons = []
    if max_cost is not None and cost is not None and cost > max_cost:
        reasons.append(f"1,000 calls cost {dollars(cost)}, more than advise.max_cost_per_1k")
    if max_latency is not None and p95 is not None and p95 > max_latency:
        reasons.append(f"1 call in 20 takes longer than {p95:,.0f} ms, more than advise.max_latency_ms")
    return "; ".join(reasons)
