"""The ladder's answer: the best rung, what training would add, and what would change the answer."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_pipeline.baseline.ladder import (
    DECISIONS,
    Answered,
    Ladder,
    Rung,
    Scored,
    Terms,
    enough_rungs,
    score_rungs,
)
from finetune_pipeline.baseline.learning_curve import Extrapolation, Point, extrapolate, rows_for
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row, is_right
from finetune_pipeline.evaluation.metrics import METRICS, Gain, metric_title
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
from finetune_pipeline.evaluation.wording import counted, dollars, inside, percent, points, points_range
from finetune_pipeline.spec.model import TaskSpec

MOSTLY_WRONG = 0.5
"""If nothing here reaches this share of correct answers and training adds little, the answer is a larger model."""


def ladder(
    spec: TaskSpec,
    answered: Sequence[Answered],
    terms: Terms,
    *,
    learnable: bool = True,
    points: Sequence[Point] = (),
    pilot_rows: Mapping[float, Sequence[Row]] | None = None,
    expected: Extrapolation | None = None,
    skipped: Mapping[str, str] | None = None,
    train_rows: int = 0,
    sources: SourceOf = None,
) -> Ladder:
    """Score the rungs, and decide.

    Args:
        answered: From :func:`.ladder.climb`, followed by the tuned model if it answered the same rows.
        learnable: Whether the inputs predict the answers (baseline.learnable).
        points, pilot_rows: The pilot's trainings, and their answers by share of the training rows.
        expected: The extrapolation if `pilot_rows` are missing; else computed from them.
    """
    scored, trained = score_rungs(spec, answered, terms, sources), pilot_rows or {}
    if trained:
        expected = extrapolate(spec, trained, scored.rival_rows, shared_sources(scored.rival_rows, sources))
    decision, sentence = _decide(spec, answered, scored, learnable, trained, expected, sources)
    return Ladder(
        metric=spec.metric,
        rows=len(answered[0].rows),
        confidence=spec.gates.confidence,
        rungs=scored.rungs,
        points=list(points),
        expected=expected,
        stands=scored.stands.name,
        decision=decision,
        sentence=f"{DECISIONS[decision]} {sentence}",
        reasons=_reasons(scored.rungs, expected, points),
        flips=_flips(spec, decision, scored, expected, terms, train_rows, trained),
        skipped=dict(skipped or {}),
    )


def leads(
    spec: TaskSpec, answered: Sequence[Answered], best: Sequence[Row], trained: Sequence[Row], sources: SourceOf = None
) -> Gain | None:
    """The gain of a pilot training over the best rung; None if it is not significant among all comparisons."""
    comparisons = len(answered) + len(spec.ladder.pilot) - 1
    confidence = shared_confidence(spec.gates.confidence, comparisons)
    gain = METRICS[spec.metric].gain(best, trained, spec.output, confidence, shared_sources(trained, sources))
    return gain if gain.surely_above() else None


def _decide(
    spec: TaskSpec,
    answered: Sequence[Answered],
    scored: Scored,
    learnable: bool,
    pilot_rows: Mapping[float, Sequence[Row]],
    expected: Extrapolation | None,
    sources: SourceOf,
) -> tuple[str, str]:
    """Returns the decision (a key of DECISIONS) and a sentence with the reason."""
    stands, rival = scored.stands, scored.rival
    reached = _reaches(spec, stands)
    if stands.excluded:
        return "undecided", "Every rung is out of the question."
    if stands.kind == "tuned":
        lead = f"{points(stands.gain)} points, {points_range(stands.gain_interval)}"
        return "fine_tune", f"{reached}, surely ahead of everything simpler ({lead})."
    if not learnable:
        return "no_signal", f"{reached}, and nothing simple surely beats answering without the input."
    enough = {answers.name for answers in enough_rungs(spec, answered, sources)}
    for rung in scored.rungs:
        if not rung.excluded and rung.name in enough:
            ceiling = percent(spec.baseline.ceiling)
            return rung.kind, f"{_reaches(spec, rung)}, surely at or above the {ceiling} of baseline.ceiling."
    if any(answers.kind == "tuned" for answers in answered):
        rival_title = "it" if rival == stands else inside(rival.title)
        return stands.kind, f"{reached}, and the tuned model is not surely ahead of {rival_title}."
    for share, rows in sorted(pilot_rows.items()):
        if gain := leads(spec, answered, scored.rival_rows, rows, sources):
            return "fine_tune", (
                f"Trained on {percent(share)} of the rows the model already leads {inside(rival.title)}, the best simpler way, by "
                f"{points(gain.gain)} points ({points_range(gain.interval)})."
            )
    if rival != stands:
        reached = _reaches(spec, rival) + f", not surely more than {inside(stands.title)}"
    if expected is None:
        pilot = "from this pilot" if pilot_rows else "without a pilot"
        return "undecided", f"{reached}; {pilot} it is unknown what training would add."
    outlook = f"training on all rows should change that by {points(expected.gain)} points ({points_range(expected.gain_interval)})"
    if expected.gain_interval[0] > 0:
        return "fine_tune", f"{reached}, and {outlook}."
    rank = METRICS[spec.metric].rank
    rival_interval = rival.interval or (0.0, 1.0)  # unknown
    if max(map(rank, (*rival_interval, *expected.interval))) < MOSTLY_WRONG:
        return "larger_model", f"{reached}, which is mostly wrong, and {outlook}: this model cannot do the task."
    if expected.gain_interval[1] < spec.gates.wanted_gain:
        return stands.kind, f"{reached}, and {outlook}, less than gates.wanted_gain."
    return "undecided", f"{reached}, and {outlook}: only training on all rows decides (finetune run {spec.name})."


def _reaches(spec: TaskSpec, rung: Rung) -> str:
    return f"{rung.title} reaches {percent(rung.value)} {metric_title(spec.metric)} on validation"


def _reasons(rungs: Sequence[Rung], expected: Extrapolation | None, trainings: Sequence[Point]) -> list[str]:
    reasons = []
    for rung in rungs:
        if rung.excluded:
            reasons.append(f"{rung.title}: {percent(rung.value)}; out of the question: {rung.excluded}.")
        elif rung.gain is not None and rung.gain_interval is not None:
            sure = "surely better" if rung.gain_interval[0] > 0 else "not surely better"
            reasons.append(
                f"{rung.title}: {percent(rung.value)}, {sure} than {inside(rung.over)} ({points(rung.gain)} points, "
                f"{points_range(rung.gain_interval)})."
            )
        else:
            reasons.append(f"{rung.title}: {percent(rung.value)}.")
    for training in trainings:
        reasons.append(f"Trained on {training.rows:,} rows ({percent(training.share)}): {percent(training.value)}.")
    if expected is not None:
        low, high = expected.interval
        reasons.append(f"All rows should reach {percent(expected.value)} ({percent(low)} to {percent(high)}).")
    return reasons


def _flips(
    spec: TaskSpec,
    decision: str,
    scored: Scored,
    expected: Extrapolation | None,
    terms: Terms,
    train_rows: int,
    pilot_rows: Mapping[float, Sequence[Row]],
) -> list[str]:
    """Sentences on what would change the answer: limits, the ceiling, more rows, the number of calls."""
    stands, rival = scored.stands, scored.rival
    metric = METRICS[spec.metric]
    sentences = [
        f"Without that limit {inside(rung.title)} would lead: {rung.excluded}."
        for rung in scored.rungs
        if rung.excluded and metric.rank(rung.value) > metric.rank(stands.value)
    ]
    if stands.kind == "tuned":
        return sentences
    if decision == "fine_tune":
        worth_naming = spec.baseline.ceiling / 3  # a lower ceiling is unrealistic
        if metric.higher_is_better and rival.interval is not None and rival.interval[0] > worth_naming:
            low = percent(rival.interval[0])
            sentences.append(f"With baseline.ceiling at {low} or less, {inside(rival.title)} is enough.")
        return sentences + _break_even(spec, rival, terms)
    if expected is not None:
        largest_pilot = pilot_rows[max(pilot_rows)] if pilot_rows else []
        sentences += [*_more_rows(expected, train_rows), *_hardest_label(spec, largest_pilot)]
    if stands.kind != "simple":
        sentences += _break_even(spec, stands, terms, equal=True)
    return sentences


def _more_rows(expected: Extrapolation, train_rows: int) -> list[str]:
    if expected.gain_interval[0] > 0:
        return []  # the lead is sure already
    if expected.slope <= 0:
        return ["More rows like these would not help: doubling them added nothing."]
    more = rows_for(-expected.gain_interval[0], expected.slope, train_rows)
    if more is None:
        return ["More rows alone would hardly help: the pilot's curve is too flat."]
    return [
        f"About {counted(more, 'more training row')} would make the lead of a trained model sure, if the curve of the pilot goes "
        f"on ({points(expected.slope)} points for a doubling)."
    ]


def _hardest_label(spec: TaskSpec, rows: Sequence[Row]) -> list[str]:
    """A sentence on the label with most errors of a pilot training, if any has at least two."""
    wrong = Counter(str(row["gold"]) for row in rows if not is_right(row, spec.output))
    if not spec.labels or not wrong:
        return []
    [(label, errors)] = wrong.most_common(1)
    if errors < 2:
        return []
    total = sum(row["gold"] == label for row in rows)
    return [f"Rows of {label} would help most: the pilot's last training is wrong on {errors} of {total}."]


def _break_even(spec: TaskSpec, simpler: Rung, terms: Terms, *, equal: bool = False) -> list[str]:
    """A sentence on the number of calls after which cheaper calls pay for training. equal: the tuned model is only as good."""
    if simpler.dollars is None or terms.tuned_dollars is None or terms.training is None:
        return []
    saving = (simpler.dollars - terms.tuned_dollars) / 1000
    if saving <= 0:
        no_saving = "Calls of a fine-tuned model are not cheaper than those of the best simpler way"
        return [] if equal else [f"{no_saving}: it pays by quality alone."]
    calls, month = terms.training / saving, spec.advise.calls_per_month
    opening = "A fine-tuned model that is only as good would pay" if equal else "Cheaper calls alone pay"
    months = f" ({calls / month:,.1f} months of advise.calls_per_month)" if month else ""
    return [
        f"{opening} from {calls:,.0f} calls on{months}: training costs {dollars(terms.training)}, and 1,000 calls "
        f"{dollars(terms.tuned_dollars)} instead of {dollars(simpler.dollars)}."
    ]
