"""Decides as before training (:mod:`.decision`), with what a pilot or a training on all rows measured besides."""

from collections.abc import Mapping, Sequence

from finetune_pipeline.baseline.decision import DECISIONS, Match
from finetune_pipeline.baseline.good_enough import enough_rungs
from finetune_pipeline.baseline.ladder import Answered, Ladder, Scored, Terms, score_rungs
from finetune_pipeline.baseline.learning_curve import Extrapolation, Point, extrapolate
from finetune_pipeline.baseline.reasons import flips, ladder_reasons, pair_reasons, reaches
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS, Gain
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
from finetune_pipeline.evaluation.wording import inside, percent, points, points_range
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
        answered: From :func:`.ladder.rung_answers`, followed by the tuned model if it answered the same rows.
        learnable: Whether the inputs predict the answers (baseline.input_evidence).
        points, pilot_rows: The pilot's trainings, and their answers by share of the training rows.
        expected: The extrapolation if `pilot_rows` are missing; else computed from them.
    """
    scored, trained = score_rungs(spec, answered, terms, sources), pilot_rows or {}
    if trained:
        expected = extrapolate(spec, trained, scored.rival_rows, shared_sources(scored.rival_rows, sources))
    decision, sentence = _decide_ladder(spec, answered, scored, learnable, trained, expected, sources)
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
        reasons=[*ladder_reasons(scored.rungs, expected, points), *pair_reasons(spec, scored.rungs)],
        flips=flips(spec, decision, scored, expected, terms, train_rows, trained),
        skipped=dict(skipped or {}),
    )


def no_pilot_needed(spec: TaskSpec, answered: Sequence[Answered], sources: SourceOf = None) -> str:
    """Return why: a rung significantly exceeds baseline.ceiling, and no limit of cost or latency can exclude it. Else empty."""
    for rung in () if spec.advise.limited else enough_rungs(spec, answered, sources):
        return f"{rung.title} significantly exceeds baseline.ceiling"
    return ""


def conclusive(
    spec: TaskSpec,
    answered: Sequence[Answered],
    rival: Sequence[Row],
    by_share: Mapping[float, Sequence[Row]],
    sources: SourceOf = None,
) -> str:
    """Return why a pilot's curve needs no more points; empty if it does, or if limits of cost or latency may exclude rungs later.

    Args:
        rival: The rows of the best rung without training.
        by_share: The rows of the pilot's trainings, by share of the training rows.
    """
    if spec.advise.limited:
        return ""
    if leads(spec, answered, rival, by_share[max(by_share)], sources):
        return "it already beats the best simpler rung significantly"
    expected = extrapolate(spec, by_share, rival, shared_sources(rival, sources))
    if expected is not None and expected.gain_interval[1] < 0:
        return "even with all rows it would not reach the best simpler rung"
    return ""


def leads(
    spec: TaskSpec, answered: Sequence[Answered], best: Sequence[Row], trained: Sequence[Row], sources: SourceOf = None
) -> Gain | None:
    """The gain of a pilot training over the best rung; None if it is not significant among all comparisons."""
    comparisons = len(answered) + len(spec.ladder.pilot) - 1
    confidence = shared_confidence(spec.gates.confidence, comparisons)
    gain = METRICS[spec.metric].gain(best, trained, spec.output, confidence, shared_sources(trained, sources))
    return gain if gain.surely_above() else None


def _decide_ladder(
    spec: TaskSpec,
    answered: Sequence[Answered],
    scored: Scored,
    learnable: bool,
    pilot_rows: Mapping[float, Sequence[Row]],
    expected: Extrapolation | None,
    sources: SourceOf,
) -> Match:
    """Decide from the scored rungs, the pilot's answers by share of the training rows, and their extrapolation to all rows."""
    stands, rival = scored.stands, scored.rival
    reached = reaches(spec, stands)
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
            return rung.kind, f"{reaches(spec, rung)}, surely at or above the {ceiling} of baseline.ceiling."
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
        reached = reaches(spec, rival) + f", not surely more than {inside(stands.title)}"
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
