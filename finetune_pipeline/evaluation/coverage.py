"""Which of two models answers more rows by itself, each at its certified threshold (gates.metric: coverage).

What is compared are the pairs of a model and a certified threshold that are put into service, by McNemar's exact test of the rows
that only one of them answers. The winner's thresholds are fixed before the sealed rows are seen, so the level is divided by
their number (Bonferroni). The rival's need no correction: at a looser one it answers the same rows and more, so a test that
rejects there also rejects at the strictest threshold at which the winner gains nothing. benchmarks/coverage_simulation.py measures
both errors.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from finetune_pipeline.evaluation.automation import probable_threshold
from finetune_pipeline.evaluation.calibration import Calibration, ReleasedProbability, calibrated_all
from finetune_pipeline.evaluation.compare import SourceOf
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.decisions import RivalGain
from finetune_pipeline.evaluation.probabilities import answers_of
from finetune_pipeline.evaluation.result_parts import Probabilities
from finetune_pipeline.evaluation.statistics.proportions import mcnemar_exact, tango_interval
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import COVERAGE, AnyOutput


@dataclass(frozen=True)
class Automated:
    """What a model answers by itself at its certified threshold.

    Attributes:
        alone: Whether it answers a row by itself, by the row's id. Of a model without probabilities, or without a certified
            threshold, empty: it answers none.
        thresholds: Number of thresholds that it could be certified at.
    """

    alone: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    thresholds: int = 1

    def of(self, ids: Sequence[str]) -> list[bool]:
        """Return whether it answers each of these rows by itself."""
        return [self.alone.get(row_id, False) for row_id in ids]


NONE_ALONE = Automated()
"""A model that answers no row by itself."""


def certified(measured: Probabilities | None, rows: Sequence[Row], output: AnyOutput) -> Automated:
    """Return what a model of this run answers by itself. rows: its answers to the sealed test, whose promise is in `measured`."""
    promise = measured.automation if measured else None
    if measured is None or promise is None or promise.threshold is None:
        return NONE_ALONE
    return Automated(_alone(rows, output, measured.calibration, promise.threshold), promise.possible)


def in_service(
    released: ReleasedProbability | None, rows: Sequence[Row], output: AnyOutput, max_error: float
) -> Automated:
    """Return what the champion answers by itself at the threshold of its release: none if that promises no answers, or only a
    larger error than `max_error`. Its one threshold was fixed before this judgement."""
    promise = released.promise if released else None
    if released is None or promise is None or promise.unit != "answer" or promise.max_error > max_error:
        return NONE_ALONE
    return Automated(_alone(rows, output, released.calibration, promise.threshold))


def _alone(rows: Sequence[Row], output: AnyOutput, calibration: Calibration, threshold: float) -> dict[str, bool]:
    in_order = sorted(rows, key=lambda row: str(row["example_id"]))
    sure = calibrated_all(answers_of(in_order, output).probabilities, calibration) >= threshold
    return {row["example_id"]: bool(answered) for row, answered in zip(in_order, sure, strict=True)}


def forecast_alone(spec: TaskSpec, rows: Sequence[Row], sources: SourceOf, test_rows: int) -> list[bool]:
    """Forecast which rows a model answers by itself, from its answers to validation: at the threshold that a test of this many rows
    probably certifies. sources: of the rows, by id; the test's are taken to have as many rows each."""
    assert spec.automation.max_error is not None
    answers = answers_of(rows, spec.output, sources)
    alike = round(test_rows * len(answers.right) / max(1, len(rows)))
    threshold = probable_threshold(answers, alike, spec.automation.max_error, 1 - spec.gates.confidence)
    if threshold is None:
        return [False] * len(rows)
    alone = _alone(rows, spec.output, Calibration(), threshold)
    return [alone[row["example_id"]] for row in rows]


def coverage_gain(
    name: str,
    rival: Sequence[bool],
    candidate: Sequence[bool],
    *,
    thresholds: int,
    level: float,
    margin: float = 0.0,
    clusters: Sequence[Hashable] | None = None,
) -> RivalGain:
    """Compare which rows two models answer by themselves.

    Args:
        name: Of the rival.
        rival, candidate: Whether each answers a row by itself, of the same rows.
        thresholds: Number of thresholds that the candidate could be certified at.
        level: Two-sided level of the whole decision, which they share.
        clusters: The source of every row, if rows share one: the first row of each counts.

    Returns:
        The gain with Tango's interval, which includes zero unless McNemar's exact test rules it out.
    """
    units = range(len(rival)) if clusters is None else clusters
    first: dict[Hashable, int] = {}
    for place, unit in enumerate(units):
        first.setdefault(unit, place)
    before, after = ([answered[i] for i in first.values()] for answered in (rival, candidate))
    n, shared = len(before), level / max(1, thresholds)
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    won = sum(new and not old for old, new in zip(before, after, strict=True))
    low, high = tango_interval(lost, won, n, 1 - shared)
    if mcnemar_exact(lost, won) > shared:
        low, high = min(low, 0.0), max(high, 0.0)
    return RivalGain(
        rival=name,
        metric=COVERAGE,
        gain=(won - lost) / n,
        interval=(low, high),
        confidence=1 - shared,
        shown=low > margin,
        alone=sum(after) / n,
        rival_alone=sum(before) / n,
    )
