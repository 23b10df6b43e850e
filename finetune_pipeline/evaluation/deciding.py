"""Decides whether a gain is significant at this candidate's level, in every metric of the spec: on the whole test, and on parts
of it by raw file (gates.parts)."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from functools import partial
from itertools import product
from typing import NamedTuple

from finetune_pipeline.evaluation.compare import SourceOf, compare, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.coverage import NONE_ALONE, Automated, coverage_gain
from finetune_pipeline.evaluation.decisions import Decision, Decisions, Level, RivalGain
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import CANDIDATE, CHAMPION, SIMPLE, row_name
from finetune_pipeline.evaluation.result import PartOfTest
from finetune_pipeline.evaluation.result_parts import ModelRow
from finetune_pipeline.evaluation.rivals import BaseAtItsBest
from finetune_pipeline.evaluation.scores import score
from finetune_pipeline.evaluation.statistics.multiple_testing import level_left, looks_spent
from finetune_pipeline.spec.evaluation import GatesSpec
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import AnyOutput

MIN_ROWS = 20
"""Minimum rows of a part of the test: with fewer, an interval spans half the scale."""
OTHER_ROWS = "the other rows"
"""Title of the test rows that no glob of gates.parts names."""


def level_of(look: int, confidence: float) -> Level:
    """Return the level at which a candidate is judged, which is stricter for every further candidate on the same test.

    look: the number of this candidate among all that the test has judged, from 1. `confidence` of the result is that of the
    two-sided interval whose lower bound decides. Its `alpha` bounds the chance of ever promoting a useless candidate, however
    many follow; `spent` is the part of it used so far.
    """
    alpha = 1 - confidence
    level = level_left(look, alpha)
    return Level(look=look, level=level, confidence=1 - level, alpha=alpha, spent=looks_spent(look, alpha))


def margin_of(requirement: str, allowed_loss: float) -> float:
    """The bound that a gain must exceed: 0 for ``better``, minus the allowed loss for ``not_worse``."""
    return -allowed_loss if requirement == "not_worse" else 0.0


def champion_margin(gates: GatesSpec, forgotten: bool) -> float:
    """The bound that a gain over the champion must exceed; forgotten: see EvaluationResult.champion_forgotten."""
    return margin_of("not_worse" if forgotten else gates.champion, gates.champion_margin)


class Beside(NamedTuple):
    """What rivals, by name, and a candidate answer by themselves."""

    rivals: Mapping[str, Automated]
    candidate: Automated


def beside(automated: Mapping[str, Automated] | None, rivals: Mapping[str, str], candidate: str) -> Beside | None:
    """Return what is compared in coverage; None where other metrics decide.

    Args:
        automated: By row of EvaluationResult.models; None where other metrics decide.
        rivals: The row of each rival, by its name in the decision.
        candidate: Its row.
    """
    if automated is None:
        return None
    named = {name: automated.get(row, NONE_ALONE) for name, row in rivals.items()}
    return Beside(named, automated.get(candidate, NONE_ALONE))


def metrics_of_gains(spec: TaskSpec) -> list[str]:
    """Return the metrics in which every gain must be shown, beside coverage where that decides."""
    deciding = [] if spec.by_coverage else [spec.metric]
    return list(dict.fromkeys([*deciding, *spec.gates.more_metrics]))


def decide_gain(
    rivals: Mapping[str, Sequence[Row]],
    candidate: Sequence[Row],
    output: AnyOutput,
    metrics: Sequence[str],
    *,
    level: float,
    margin: float,
    clusters: Sequence[Hashable] | None = None,
    automated: Beside | None = None,
) -> Decision:
    """Decide whether the gain of `candidate` over every rival significantly exceeds `margin`, in every metric.

    All pairs of a rival and a metric must show it, so each is judged at the whole level: a candidate that is useless against one
    of them passes with that probability at most (an intersection-union test, Berger 1982).

    Args:
        rivals: Rows of each rival by name, in the order of the candidate's rows.
        level: Two-sided significance level of the whole decision.
        margin: Negative if the candidate may be slightly worse.
        clusters: The source of every row, if rows share one.
        automated: What the rivals and the candidate answer by themselves: then each gain in coverage must be shown, too.

    Returns:
        The decision. A metric without an interval is not shown, and without a rival nothing is shown.
    """
    gains = []
    if automated:
        by_itself, ids = automated.candidate, [row["example_id"] for row in candidate]
        gains = [
            coverage_gain(
                rival,
                automated.rivals.get(rival, NONE_ALONE).of(ids),
                by_itself.of(ids),
                thresholds=by_itself.thresholds,
                level=level,
                margin=margin,
                clusters=clusters,
            )
            for rival in rivals
        ]
    for rival, metric in product(rivals, metrics):
        measured = METRICS[metric].gain(rivals[rival], candidate, output, 1 - level, clusters)
        shown = measured.surely_above(margin)
        gains.append(RivalGain(rival=rival, metric=metric, confidence=1 - level, shown=shown, **asdict(measured)))
    return Decision(margin=margin, shown=bool(gains) and all(g.shown for g in gains), gains=gains)


def decisions_of(
    spec: TaskSpec,
    rows: Mapping[str, Sequence[Row]],
    base: BaseAtItsBest,
    simple: Mapping[str, Sequence[Row]],
    level: float,
    sources: SourceOf,
    champion_forgotten: bool = False,
    automated: Mapping[str, Automated] | None = None,
) -> Decisions:
    """Decide whether the gains over the base model with its best prompt, the simple models and the champion are significant.

    rows, base, simple: each model's in the order of example ids. The champion may lack some of the rows. automated: with
    gates.metric coverage, from promises.automated_models.
    """
    gates, champion, candidate = spec.gates, rows.get("champion", []), rows["candidate"]
    beside_champion = answers_to(champion, candidate)
    decide = partial(decide_gain, output=spec.output, level=level)
    decision = partial(decide, candidate=candidate, clusters=shared_sources(candidate, sources))
    metrics = metrics_of_gains(spec)
    modes = {str(mode): row_name("prompt", None, mode) for mode in base.answers}
    return Decisions(
        baseline=decision(
            {str(mode): answers for mode, answers in base.answers.items()},
            metrics=metrics,
            margin=gates.min_gain,
            automated=beside(automated, modes, CANDIDATE),
        ),
        simple=decision(
            simple,
            metrics=metrics,
            margin=margin_of(gates.simple, gates.simple_margin),
            automated=beside(automated, {name: SIMPLE + name for name in simple}, CANDIDATE),
        ),
        champion=decide(
            {CHAMPION: champion},
            beside_champion,
            metrics=metrics,
            margin=champion_margin(gates, champion_forgotten),
            clusters=shared_sources(beside_champion, sources),
            automated=beside(automated, {CHAMPION: CHAMPION}, CANDIDATE),
        )
        if champion
        else None,
    )


def answers_to(other: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """Return a model's answers to the rows that another model's answers are about."""
    ids = {row["example_id"] for row in other}
    return [row for row in rows if row["example_id"] in ids]


def parts_of_test(
    spec: TaskSpec,
    base: BaseAtItsBest,
    candidate: Sequence[Row],
    files: Mapping[str, str],
    level: float,
    sources: SourceOf = None,
    automated: Mapping[str, Automated] | None = None,
) -> list[PartOfTest]:
    """Compare the candidate with the base model on the rows of each glob of gates.parts, and on the rest.

    Every part must show the gain, so each is judged at the whole level, as in :func:`decide_gain`. base, candidate: rows in the
    order of example ids. files: the raw file of each test example, by id. automated: as in :func:`decisions_of`.
    """
    if not spec.gates.parts:
        return []
    groups: list[tuple[str | None, set[str]]] = [
        (pattern, {i for i, file in files.items() if fnmatch(file, pattern)}) for pattern in spec.gates.parts
    ]
    other_ids = files.keys() - set().union(*(ids for _, ids in groups))
    parts = []
    for pattern, ids in [*groups, (None, other_ids)]:
        candidate_rows = [row for row in candidate if row["example_id"] in ids]
        rivals = {str(mode): [r for r in rows if r["example_id"] in ids] for mode, rows in base.answers.items()}
        clusters, decision = shared_sources(candidate_rows, sources), None
        if pattern is not None and len(candidate_rows) >= MIN_ROWS:
            modes = {str(mode): row_name("prompt", None, mode) for mode in base.answers}
            decision = decide_gain(
                rivals,
                candidate_rows,
                spec.output,
                [] if spec.by_coverage else [spec.metric],
                level=level,
                margin=spec.gates.min_gain,
                clusters=clusters,
                automated=beside(automated, modes, CANDIDATE),
            )
        models, compared = {}, None
        if candidate_rows:
            base_rows, part_name = rivals[base.mode], pattern or OTHER_ROWS
            compared = compare(base_rows, candidate_rows, spec.output, spec.gates.confidence, spec.metric, sources)
            models = {
                model: ModelRow.of(f"{title}, {part_name}", "test", score(rows, spec, sources).model_dump())
                for model, title, rows in (
                    ("base", "Base at its best", base_rows),
                    ("candidate", "Fine-tuned", candidate_rows),
                )
            }
        parts.append(
            PartOfTest(files=pattern, n=len(candidate_rows), models=models, comparison=compared, decision=decision)
        )
    return parts
