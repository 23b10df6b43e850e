"""The finalists: the best simple model and the best prompt on validation. One of them is shipped where the fine-tuned model does
not pass its gates."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from msgspec.structs import replace

from finetune_pipeline.evaluation.compare import SourceOf, compare, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.coverage import Automated
from finetune_pipeline.evaluation.deciding import answers_to, beside, champion_margin, decide_gain, metrics_of_gains
from finetune_pipeline.evaluation.decisions import Comparison, Decision, Decisions, Finalist, Mode
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import API, CANDIDATE, CHAMPION, SIMPLE, row_name
from finetune_pipeline.evaluation.preferences.people import People
from finetune_pipeline.evaluation.regression_ledger import never_broken, outcomes_of
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import Interval, Scores
from finetune_pipeline.evaluation.rivals import API_MODEL, MODE_TITLES, ScoredBaselines, restricted_rows
from finetune_pipeline.evaluation.scored_rows import ScoredRow, scored
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import inside, prompt_name
from finetune_pipeline.spec.model import TaskSpec

TUNED_TITLE = "the fine-tuned model"


@dataclass(frozen=True)
class Contender:
    """A model in the contest, and its answers to the sealed test and to validation."""

    kind: Literal["simple", "prompt"]
    name: str
    mode: Mode | None
    title: str
    rows: Sequence[ScoredRow]
    validation: Sequence[ScoredRow]

    @property
    def row(self) -> str:
        """Its row of EvaluationResult.models."""
        return row_name(self.kind, self.name, self.mode)


def contenders(
    spec: TaskSpec,
    baseline: ScoredBaselines,
    rows: Mapping[str, Sequence[Row]],
    simple: Mapping[str, Sequence[Row]],
    validation: Mapping[str, Sequence[Row]] = MappingProxyType({}),
) -> Iterator[Contender]:
    """Choose the best simple model and the best prompt by their scores on validation, simplest first. An API model is none: there
    is nothing to put into service.

    baseline: from rivals.score_baselines. rows, simple: answers to the sealed test. validation: answers to validation, of the
    models in `rows`.
    """
    validated = {name: scores for name, scores in baseline.simple.items() if name in simple}
    if validated:
        name = max(validated, key=lambda name: validated[name].rank)
        title, asked = inside(SIMPLE_MODELS[name].title), scored(validation.get(SIMPLE + name, ()), spec.output)
        yield Contender("simple", name, None, title, scored(simple[name], spec.output), asked)
    best = baseline.best
    if not best.startswith(API):
        mode = baseline.best_mode
        answers = restricted_rows(rows, "base", spec.output) if mode == "restricted" else rows["base"]
        if answers:
            title = f"the base model with its {prompt_name(best)} prompt{MODE_TITLES[mode]}"
            asked = scored(validation.get("base", ()), spec.output)
            if mode == "restricted":
                asked = scored(restricted_rows(validation, "base", spec.output) or (), spec.output)
            yield Contender("prompt", best, mode, title, scored(answers, spec.output), asked)


def with_candidate(answers: Sequence[ScoredRow], contender: Contender) -> list[ScoredRow]:
    """The answers of all models, and those of a contender once more as `candidate`, for a run that trained nothing."""
    return [*answers, *(ScoredRow({**row, "model": "candidate"}, row.output) for row in contender.rows)]


def finalists_of(
    spec: TaskSpec,
    chosen: Sequence[Contender],
    rows: Mapping[str, Sequence[Row]],
    simple: Mapping[str, Sequence[Row]],
    level: float,
    sources: SourceOf,
    never_break: Sequence[str] = (),
    champion_forgotten: bool = False,
    untrained: bool = False,
    automated: Mapping[str, Automated] | None = None,
) -> list[Finalist]:
    """Compare the finalists with each other, the candidate, an API model, the commonest answer and the champion.

    What a finalist itself must show is decided at the level shared by all finalists, since each is a chance to ship a useless
    model. rows: of every model, as in evaluate_run.evaluate_task; simple: of simple models. untrained: there is no candidate.
    automated: with gates.metric coverage, from promises.automated_models.
    """
    metrics, output = metrics_of_gains(spec), spec.output
    others: dict[str, tuple[str, Sequence[Row]]] = {
        finalist.title: (finalist.row, finalist.rows) for finalist in chosen
    }
    if not untrained:
        others[TUNED_TITLE] = (CANDIDATE, rows[CANDIDATE])
    if API_MODEL in rows or not any(finalist.kind == "prompt" for finalist in chosen):
        others["the prompted model behind an API"] = (API_MODEL, rows.get(API_MODEL, rows["base"]))
    blind = {name: (SIMPLE + name, simple[name]) for name in BLIND if name in simple}
    champion, shared = rows.get(CHAMPION, []), level / max(1, len(chosen))

    def decide(
        rivals: Mapping[str, tuple[str, Sequence[Row]]],
        model: str,
        answers: Sequence[Row],
        level: float,
        margin: float = 0.0,
    ) -> Decision:
        """Compare a model with rivals. rivals: the row of each and its answers, by name. model: the row of `answers`."""
        return decide_gain(
            {name: of_rival for name, (_, of_rival) in rivals.items()},
            answers,
            output,
            metrics,
            level=level,
            margin=margin,
            clusters=shared_sources(answers, sources),
            automated=beside(automated, {name: row for name, (row, _) in rivals.items()}, model),
        )

    finalists = []
    for finalist in chosen:
        beside_champion = answers_to(champion, finalist.rows)
        over_champion: Decision | None = None
        compared: Comparison | None = None
        if champion:
            margin = champion_margin(spec.gates, champion_forgotten)
            over_champion = decide({CHAMPION: (CHAMPION, champion)}, finalist.row, beside_champion, shared, margin)
            compared = compare(champion, beside_champion, output, spec.gates.confidence, spec.metric, sources)
        finalists.append(
            Finalist(
                kind=finalist.kind,
                name=finalist.name,
                mode=finalist.mode,
                title=finalist.title,
                beaten_by=[
                    title
                    for title, (other, answers) in others.items()
                    if title != finalist.title
                    and decide({finalist.name: (finalist.row, finalist.rows)}, other, answers, level).shown
                ],
                commonest=decide(blind, finalist.row, finalist.rows, shared),
                champion=over_champion,
                beside_champion=compared,
                never_break=never_broken(never_break, outcomes_of(finalist.rows, output)),
                score_interval=score_interval(spec, finalist.rows, shared, sources),
            )
        )
    return finalists


def score_interval(spec: TaskSpec, rows: Sequence[Row], level: float, sources: SourceOf) -> Interval:
    """The interval of a model's score in the deciding metric. level: two-sided."""
    return METRICS[spec.metric].interval(rows, spec.output, 1 - level, shared_sources(rows, sources))


def scores_of(evaluation: EvaluationResult, finalist: Finalist) -> Scores:
    """The scores of a finalist on the sealed test."""
    if finalist.kind == "simple":
        return evaluation.scores[SIMPLE + finalist.name]
    restricted = evaluation.restricted.get("base") if finalist.mode == "restricted" else None
    return restricted or evaluation.scores["base"]


def as_candidate(evaluation: EvaluationResult, finalist: Finalist) -> EvaluationResult:
    """The evaluation with a finalist in the place of the fine-tuned model, for the gates that are asked of it. What was measured of
    the fine-tuned model alone is left out."""
    row = row_name(finalist.kind, finalist.name, finalist.mode)
    probabilities = {name: of_model for name, of_model in evaluation.probabilities.items() if name != CANDIDATE}
    if row in probabilities:
        probabilities[CANDIDATE] = probabilities[row]
    ratings = evaluation.people.random if evaluation.people else None
    rated = ratings if ratings and finalist.mode == "free" else None
    nothing, method = Decision(), "restricted" if finalist.mode == "restricted" else finalist.kind
    return evaluation.model_copy(
        update={
            "task": evaluation.task.model_copy(update={"method": method}),
            "scores": {**evaluation.scores, "candidate": scores_of(evaluation, finalist)},
            "comparisons": {**evaluation.comparisons, "champion": finalist.beside_champion},
            "decisions": Decisions(baseline=nothing, simple=finalist.commonest, champion=finalist.champion),
            "never_break": finalist.never_break,
            "score_interval": finalist.score_interval,
            "probabilities": probabilities,
            "people": People(rated=0, random=replace(rated, candidate=rated.base) if rated else None),
            "ability": None,
            "robustness": None,
            "judge": None,
            "production": None,
        }
    )
