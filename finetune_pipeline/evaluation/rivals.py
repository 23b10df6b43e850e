"""The rivals a candidate must beat: the base model with its best prompt, and simple models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.decisions import Mode
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.prediction_facts import ApiUsage, SetFacts
from finetune_pipeline.evaluation.predictions import API, SIMPLE, in_order, prompts_of, restricted_name
from finetune_pipeline.evaluation.result_parts import Scores
from finetune_pipeline.evaluation.scored_rows import scored
from finetune_pipeline.evaluation.scores import score, valid_share
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import inside, prompt_name
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput, LabelsOutput, TextOutput

MIN_IN_FORM = 0.8
"""Below this share of answers in the declared form, a model's free answers are no fair rival."""
API_MODEL = "api"
"""The API model of baseline.endpoint with its best prompt, unless that is the best prompt of all and therefore `base`."""
MODE_TITLES: dict[str, str] = {
    "free": "",
    "restricted": ", answer restricted to the allowed forms",
}


@dataclass(frozen=True)
class BaseAtItsBest:
    """The answers of the base model that a candidate is compared with.

    Attributes:
        mode: The mode that decides.
        answers: Rows by mode, the deciding one first, without free answers out of form where there are restricted ones.
        valid_share: Share of free answers in the declared form.
    """

    mode: Mode
    answers: dict[Mode, Sequence[Row]]
    valid_share: float


def base_at_its_best(rows: Mapping[str, Sequence[Row]], output: AnyOutput, name: str = "base") -> BaseAtItsBest:
    """Choose the answers of the base model that a candidate is compared with.

    Free answers decide if at least MIN_IN_FORM of them are in form, and restricted answers are a second rival. Otherwise
    restricted answers decide alone, if there are any. Free text has no restricted form.

    Args:
        name: The base model, or one of its prompts, in `rows`.
    """
    free = scored(rows[name], output)
    share = valid_share(free, output).share or 0.0
    if isinstance(output, TextOutput):
        return BaseAtItsBest("free", {"free": free}, share)
    restricted = restricted_rows(rows, name, output)
    answers: dict[Mode, Sequence[Row]] = {}
    if share >= MIN_IN_FORM or not restricted:
        answers["free"] = free
    if restricted:
        answers["restricted"] = restricted
    return BaseAtItsBest(next(iter(answers)), answers, share)


def restricted_rows(rows: Mapping[str, Sequence[Row]], name: str, output: AnyOutput) -> Sequence[Row] | None:
    """A model's answers restricted to the allowed forms: the likeliest label, or JSON decoded under the schema. None for free
    text, or from an engine that cannot restrict answers."""
    if isinstance(output, LabelsOutput):
        free = rows.get(name, ())
        return [row.likeliest for row in scored(free, output)] if any(row["label_scores"] for row in free) else None
    return rows.get(restricted_name(name)) or None


def simple_rows(rows: Mapping[str, Sequence[Row]]) -> dict[str, Sequence[Row]]:
    """The rows of each simple model, by its name in SIMPLE_MODELS."""
    return {name: rows[SIMPLE + name] for name in SIMPLE_MODELS if SIMPLE + name in rows}


@dataclass(frozen=True)
class Rival:
    """One rival on validation.

    Attributes:
        title: Name inside a sentence.
        value: Its score in the deciding metric.
        rows: In the order of example ids.
        gates: The gates that compare a candidate with it.
    """

    title: str
    value: float
    rows: Sequence[Row]
    gates: tuple[str, ...] = ("beats_baseline",)


def rivals_of(spec: TaskSpec, rows: Mapping[str, Sequence[Row]]) -> list[Rival]:
    """The alternatives to fine-tuning on validation: prompts, restricted answers, simple models.

    Args:
        rows: By prompt, by restricted_name(prompt), and by SIMPLE + name of a simple model.
    """
    metric, rivals = METRICS[spec.metric], []

    def add(title: str, rival_rows: Sequence[Row], *gates: str) -> None:
        value = metric.score(rival_rows, spec.output)
        rivals.append(Rival(title, value, in_order(rival_rows), gates))

    for name in prompts_of(rows):
        for mode, answers in base_at_its_best(rows, spec.output, name).answers.items():
            add(f"the base model, {prompt_name(name)}{MODE_TITLES[mode]}", answers, "beats_baseline")
    for name, model_rows in simple_rows(rows).items():
        blind = ("beats_commonest",) if name in BLIND else ()
        add(inside(SIMPLE_MODELS[name].title), model_rows, "beats_simple", *blind)
    return rivals


def strongest_rival(spec: TaskSpec, rows: Mapping[str, Sequence[Row]]) -> Rival:
    """The best of :func:`rivals_of` in the metric that decides."""
    metric = METRICS[spec.metric]
    return max(rivals_of(spec, rows), key=lambda rival: metric.rank(rival.value))


class BaselinePrimary(Facts, frozen=True, kw_only=True):
    """The score in the metric that decides."""

    name: str
    value: float
    interval: tuple[float, float] | None


class BaselineScores(Facts, frozen=True, kw_only=True):
    """Scores on validation. interval: of the accuracy."""

    n: int
    correct: int
    accuracy: float
    interval: tuple[float, float]
    primary: BaselinePrimary

    @property
    def rank(self) -> float:
        """The rank of these scores, by the metric that decides; more is better."""
        return METRICS[self.primary.name].rank(self.primary.value)


class PromptScores(BaselineScores, frozen=True, kw_only=True):
    """Scores of one prompt. valid_share: share of free answers in the declared form; restricted: of answers restricted to it. The
    kind of output determines which further metric is set."""

    macro_f1: float | None = None
    micro_f1: float | None = None
    rougeLsum: float | None = None
    statuses: dict[str, int]
    valid_share: float | None
    restricted: BaselineScores | None


class ScoredBaselines(Facts, frozen=True, kw_only=True):
    """Scores of all prompts and simple models. best, best_mode: the prompt that fine-tuning must beat."""

    prompts: dict[str, PromptScores]
    best: str
    best_mode: Mode
    simple: dict[str, BaselineScores]
    metric: str
    confidence: float
    n: int


class Baseline(ScoredBaselines, frozen=True, kw_only=True):
    """Facts of few_shot_baseline.

    Attributes:
        rows, passages, documents_left_out, vectors, left_out: As in prediction_facts.AnsweredPrompts.
        prompt_details: Answers of each prompt.
        api: None if no API model was asked.
    """

    rows: int
    passages: int
    documents_left_out: list[str]
    vectors: dict[str, dict[str, Any]] = {}
    left_out: dict[str, str] = {}
    prompt_details: dict[str, SetFacts]
    api: ApiUsage | None

    @property
    def failed(self) -> int:
        """Validation rows without an answer. Leaves API models out: a few failed requests count as wrong answers, and too many stop
        the step."""
        return sum(self.prompt_details[name].failed for name in self.prompts if not name.startswith(API))


def score_baselines(spec: TaskSpec, rows: Mapping[str, Sequence[Row]], sources: SourceOf = None) -> ScoredBaselines:
    """Score every prompt and every simple model on validation, and choose the prompt that fine-tuning must beat.

    The best prompt has the best answers in the metric that decides: free ones, where enough are in form (MIN_IN_FORM), or
    restricted ones. A base model that is wrong only in form is no reason to train. Ties go to free answers, and to the first
    prompt.

    Args:
        rows: As in :func:`rivals_of`.
        sources: What each example was made from, by id; intervals count them where rows share them.

    Raises:
        ValueError: There is no prompt, or prompts cover different examples.
    """
    rows = {name: scored(answers, spec.output) for name, answers in rows.items()}
    names = prompts_of(rows)
    if not names or not all(rows[name] for name in names):
        raise ValueError("no baseline predictions to score")
    covered = {name: sorted(row["example_id"] for row in rows[name]) for name in names}
    if different := [name for name, ids in covered.items() if ids != covered[names[0]]]:
        raise ValueError(f"prompts cover other examples than {names[0]}: {', '.join(different)}")
    prompts = {name: _prompt_scores(spec, rows, name, sources) for name in names}
    restricted = {name: scores for name in names if (scores := prompts[name].restricted)}
    in_form = names
    if not isinstance(spec.output, TextOutput):
        in_form = [name for name in names if (prompts[name].valid_share or 0.0) >= MIN_IN_FORM]
    free = in_form if in_form or restricted else names
    ranks: dict[tuple[Mode, str], float] = {("free", name): prompts[name].rank for name in free}
    ranks |= {("restricted", name): scores.rank for name, scores in restricted.items()}
    mode, best = max(ranks, key=lambda key: ranks[key])
    simple = {name: score(answers, spec, sources) for name, answers in simple_rows(rows).items()}
    return ScoredBaselines(
        prompts=prompts,
        best=best,
        best_mode=mode,
        simple={name: BaselineScores.of(_plain(scores)) for name, scores in simple.items()},
        metric=spec.metric,
        confidence=spec.gates.confidence,
        n=len(covered[names[0]]),
    )


def best_api_prompt(prompts: Mapping[str, BaselineScores]) -> str | None:
    """The API model's best prompt on validation, by its free answers; None if it was not asked."""
    api_prompts = [name for name in prompts if name.startswith(API)]
    return max(api_prompts, key=lambda name: prompts[name].rank, default=None)


def _prompt_scores(spec: TaskSpec, rows: Mapping[str, Sequence[Row]], name: str, sources: SourceOf) -> PromptScores:
    scores, restricted = score(rows[name], spec, sources), restricted_rows(rows, name, spec.output)
    in_form = _plain(score(restricted, spec, sources)) if restricted else None
    return PromptScores.of({**_plain(scores), "valid_share": scores.valid.share, "restricted": in_form})


def _plain(scores: Scores) -> dict[str, object]:
    return scores.model_dump(mode="json", include=set(PromptScores.__struct_fields__), exclude_unset=True)
