"""The sentences of the report: what the numbers say, in words, the same on every page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.gate_result import GateStatus
from finetune_pipeline.evaluation.gates import GateResult, verdict
from finetune_pipeline.evaluation.gates_on_gains import tied_with
from finetune_pipeline.evaluation.overlap import OVERLAP_NAMES
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.rivals import MODE_TITLES
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import (
    RIGHT_OR_WRONG,
    counted,
    inside,
    is_interval,
    is_number,
    metric_title,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    prompt_name,
)

MOST = 0.5
"""From this share of the gain on, constrained decoding of the base model counts as bringing most of it."""


def level(evaluation: Mapping[str, Any]) -> str:
    """The confidence level of all intervals, as `95%`."""
    return f"{100 * evaluation['confidence']:g}%"


def metric_name(evaluation: Mapping[str, Any]) -> str:
    """What gains are measured in, such as accuracy or ROUGE-L."""
    return metric_title(evaluation["metric"])


def verdict_sentences(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> tuple[str, str]:
    """The answer in a few words (`Passed: …`), and the sentence with the gain and its interval."""
    answer = verdict_answer(evaluation, gates)
    told, scores = evaluation["comparison"], evaluation["scores"]["candidate"]
    best = f"the base model with its best prompt ({prompt_name(evaluation['baseline'].get('best'))})"
    best += MODE_TITLES[evaluation["base_at_its_best"]["mode"]]
    if evaluation["metric"] in RIGHT_OR_WRONG:
        reached = (
            f"The fine-tuned model is right on {percent(scores['accuracy'])} of {counted(told['n'], 'sealed row')}"
        )
    else:
        reached = (
            f"The fine-tuned model reaches {metric_name(evaluation)} {points(scores['primary']['value'], sign=False)} on "
            f"{counted(told['n'], 'sealed row')}"
        )
    return answer, (
        f"{reached}, {_difference(told['gain'])} {best}; the "
        f"{level(evaluation)} interval of the gain is {points_range(told['interval'])} points."
    )


def verdict_answer(evaluation: Mapping[str, Any], gates: Sequence[GateResult]) -> str:
    """The verdict in a sentence: promoted, beaten or tied by a simple model, or refused and by which gates."""
    failed = [gate.name for gate in gates if not gate.passed]
    decision = verdict(gates)
    tied = joined([inside(title) for title in tied_with(evaluation)])
    if decision == "promote":
        tie = f" It is a tie with {tied}, which gates.simple: not_worse takes." if tied else ""
        return f"Passed: {gate_counts(gates)}.{tie}"
    if decision == "use_simple":
        return f"Better than prompting, not surely better than {tied or 'a simple model'}: use that, or train on."
    return f"Refused by {joined(failed)}: {gate_counts(gates)}." if failed else "Refused: no gate was asked."


def gate_counts(gates: Sequence[GateResult]) -> str:
    """`7 passed, 1 failed, 6 not asked`; statuses no gate has are left out."""
    counts = Counter(gate.status for gate in gates)
    statuses: tuple[GateStatus, ...] = ("passed", "failed", "warned", "not_asked")
    return ", ".join(f"{counts[status]} {status.replace('_', ' ')}" for status in statuses if counts[status])


def _difference(gain: Any) -> str:
    if not is_number(gain):
        return "an unknown distance from"
    if round(1000 * gain) == 0:
        return "as often as" if gain == 0 else "about as often as"
    size = f"{abs(100 * gain):.1f}"
    return f"{size} points {'more' if gain > 0 else 'less'} than"


def joined(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`; nothing for nothing."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def format_gap_sentences(evaluation: Mapping[str, Any]) -> list[str]:
    """What free generation loses against answers restricted to the labels, and whether that needed training."""
    gap = evaluation["format_gap"]
    if not gap:
        return []
    base, tuned = gap["base"], gap["candidate"]
    told = [
        f"Free generation is what production receives: the raw text must be in the declared form. Restricting the answer to "
        f"the allowed forms shows what a model could tell apart if form were no issue. The base "
        f"model is right on {percent(base['free'])} freely and {percent(base['restricted'])} restricted, with "
        f"{percent(base['valid_share'])} of its answers valid; the fine-tuned model on {percent(tuned['free'])} and "
        f"{percent(tuned['restricted'])}, with {percent(tuned['valid_share'])} valid.",
    ]
    closed = gap["closed_by_decoding"]
    if is_number(closed) and closed >= MOST:
        told.append(_decoding_sentence(closed))
    elif is_number(closed) and closed > 0:
        told.append(
            f"Constrained decoding of the untrained base model would bring {percent(closed)} of the gain; the "
            f"rest is better judgement, which only training brought."
        )
    elif is_number(closed):
        told.append("Constrained decoding of the untrained base model would bring none of the gain.")
    return told


def _decoding_sentence(closed: float) -> str:
    share = "all of the gain" if closed >= 1 else f"{percent(closed)} of the gain"
    return (
        f"Constrained decoding of the untrained base model would bring {share}: most of what was gained is form, "
        "and could be had without fine-tuning."
    )


def caveats(evaluation: Mapping[str, Any]) -> list[str]:
    """What belongs directly under the verdict: the champion, simple models not beaten, a gain that is mostly form."""
    comparisons, told = evaluation["comparisons"], []
    if champion := comparisons.get("champion"):
        told.append(
            f"Against the champion in service: {points(champion['gain'])} points "
            f"({points_range(champion['interval'])})."
        )
    for name, model in SIMPLE_MODELS.items():
        simple = comparisons.get(f"{SIMPLE}{name}")
        if not simple or not is_interval(simple["interval"]) or simple["interval"][0] > 0:
            continue
        surely = simple["interval"][1] < 0
        told.append(
            f"{model.title} is {'' if surely else 'not surely worse; it is '}made in seconds"
            f"{' and is surely better' if surely else ''}: the fine-tuned model stands at {points(simple['gain'])} points "
            f"against it ({points_range(simple['interval'])})."
        )
    gap = evaluation["format_gap"]
    if gap and is_number(gap["closed_by_decoding"]) and gap["closed_by_decoding"] >= MOST:
        told.append(_decoding_sentence(gap["closed_by_decoding"]))
    return told


def pair_sentence(comparison: Mapping[str, Any], other: str) -> str:
    """Wins, losses and the exact test of one comparison."""
    adjusted = comparison.get("mcnemar_p_holm")
    right = "answered word for word" if comparison["metric"] in OVERLAP_NAMES else "answered rightly"
    p = p_value(comparison["mcnemar_p"])
    told = (
        f"Of {counted(comparison['n'], 'row')}, {comparison['c']:,} are {right} by the fine-tuned model "
        f"alone and {comparison['b']:,} by {other} alone; exact McNemar p {p if p.startswith('<') else '= ' + p}"
    )
    if is_number(adjusted) and p_value(adjusted) != p:
        told += f" ({p_value(adjusted)} adjusted for the number of comparisons)"
    return told + "."


def visible_sentence(comparison: Mapping[str, Any]) -> str:
    """What gain a test set of this size shows at all."""
    visible = comparison["smallest_detectable_gain"]
    share = f"exactly one of the two models is right on {percent(comparison['discordant_share'])} of the rows"
    if not is_number(visible):
        return f"At this size no gain would be visible reliably: {share}."
    of_what = "" if comparison["metric"] in RIGHT_OR_WRONG else " of right answers"
    return (
        f"A test of this size finds a true gain of {points(visible, sign=False)} points{of_what} or more four "
        f"times in five ({share}); smaller ones may go unseen."
    )


def curve_sentence(training: Mapping[str, Any]) -> str:
    """How the validation loss went."""
    first, best, step = (training.get(k) for k in ("first_eval_loss", "best_eval_loss", "best_step"))
    if not is_number(first) or not is_number(best):
        return "No validation loss was recorded."
    told = f"Validation loss fell from {number(first)} before training to {number(best)}"
    if best >= first:
        told = f"Validation loss did not fall: {number(first)} before training, {number(best)} at best"
    return told + (f" at step {step:,}, which is the checkpoint that was kept." if isinstance(step, int) else ".")


def seal_sentence(evaluation: Mapping[str, Any]) -> str:
    """How often the sealed test was opened and what that is worth."""
    seal = evaluation["seal"]
    if not seal["count"]:
        return "No opening of the sealed test is on record."
    times = "once" if seal["count"] == 1 else f"{seal['count']} times"
    told = f"The sealed test was opened {times}, for {counted(seal['candidates'], 'candidate')}."
    if seal["candidates"] > 1 and is_number(seal["optimism"]):
        told += (
            f" The best of {seal['candidates']} equally good candidates looks up to "
            f"{points(seal['optimism'], sign=False)} points better on it than it is."
        )
    return told


def interval_cell(share: Any, interval: Any) -> str:
    """`81.3% (75.2% to 86.1%)`."""
    return f"{percent(share)} ({percent_range(interval)})" if is_interval(interval) else percent(share)
