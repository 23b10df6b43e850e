"""Gates beyond the task's own test: general ability, people, a judging model, perturbed rows, recent production rows."""

from __future__ import annotations

import math

from finetune_pipeline.evaluation.gate_result import GateResult, answer
from finetune_pipeline.evaluation.production_rows import FEWEST
from finetune_pipeline.evaluation.result import PerturbedRows, Production
from finetune_pipeline.evaluation.robustness import robustness_verdict
from finetune_pipeline.evaluation.step_facts import Ability, JudgeFindings, People, Ratings
from finetune_pipeline.evaluation.wording import counted, percent, percent_range, points, points_range
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS, GatesSpec, RobustnessSpec
from finetune_pipeline.spec.model import TaskSpec

_D, _R = GatesSpec.model_validate({}), RobustnessSpec.model_validate({})
BESIDES_GATES: tuple[tuple[str, str, str, str, str], ...] = (
    (
        "judge",
        "a judge that agrees with people (evaluation.judge), and the lower bound of the share of decided pairs in which it "
        "prefers the candidate to the base at or above gates.min_preferred; not asked where gates.min_preferred is 0",
        f"{_D.min_preferred:g}",
        "champion",
        "Where the judge is not believed: have people rate more pairs (`finetune review TASK`), or take another judging model. "
        "Where it is: read the pairs it decides against the candidate, and add training rows like them.",
    ),
    (
        "general_ability",
        "the upper bound of the accuracy lost on questions besides the task below gates.max_ability_loss, no benchmark of your "
        "own that surely loses as much, and the upper bound of the relative rise of the bits plain text costs below "
        "gates.max_text_loss; not asked where the spec asks nothing",
        f"{_D.max_ability_loss:g}, {_D.max_text_loss:g}",
        "champion",
        "Train more gently: fewer epochs, a lower learning rate, a smaller rank, or qlora or lora in place of full. Mix some "
        "general examples into the training data. If only this one task will ever be asked of the model, raise the limits.",
    ),
    (
        "human_review",
        "gates.min_rated answers drawn at random judged by people, and the lower bound of the accepted share at or above "
        "gates.min_accepted; not asked where gates.min_rated is 0",
        f"{_D.min_rated:d}, {_D.min_accepted:g}",
        "champion",
        "Open `finetune review TASK`, or have more people judge the sheet. Where they refuse answers, read their comments "
        "in the report and add training rows like the ones that were refused.",
    ),
    (
        "robust",
        f"no perturbation that production brings (typing errors, another case, a greeting and thanks), measured on {ENOUGH_ROWS} "
        "test rows or more, costs more than robustness.max_drop and surely something; on fewer rows, or with robustness.action: "
        "warn, it holds nothing back; not asked where robustness.rows is 0",
        f"{_R.max_drop:g}, {_R.action}",
        "champion, with robustness.action: block",
        "Set training.augment: true, which gives training rows the same perturbations, or add training rows written that way. "
        "Or take the perturbation away before the model sees it (strip greetings and thanks).",
    ),
    (
        "recent_production",
        "on recent production rows with a known answer, which no version was trained on, the candidate is not shown to be "
        "worse than the champion (the base model where there is none); not asked where there are fewer than "
        f"{FEWEST} such rows",
        "logs.judging_share 0.2",
        "champion",
        "Keep the champion: the candidate is better on what was collected, and worse on what is asked now. Look at the drift "
        "page, and train again with the newest corrections.",
    ),
)
"""Name, needs, default, what is held back, what to do."""
_TO_DO = {row[0]: row[4] for row in BESIDES_GATES}


def general_ability(spec: TaskSpec, ability: Ability | None) -> GateResult:
    """The upper bound of what was lost lies below the limits. Measured: the upper bound of the lost accuracy."""
    name, limit = "general_ability", spec.gates.max_ability_loss
    asked = spec.ability.suite or spec.ability.files or spec.ability.harness.tasks
    if ability is not None and ability.items == 0 and not asked:
        return answer(name, "not_asked", None, limit, "The spec asks nothing besides the task.", "")
    if ability is None or ability.drop is None or ability.interval is None:
        return answer(name, False, None, limit, "General ability was not measured.", _TO_DO[name])
    low, high = ability.interval
    message = (
        f"{points(-ability.drop)} points on {counted(ability.n or 0, 'question')} besides the task "
        f"(interval {points_range((-high, -low))}); a loss of {points(limit, sign=False)} points must be ruled out."
    )
    passed = high < limit
    if not passed and low < limit:
        message += f" A loss that large is not shown either: {points(low)} to {points(high)} points may be lost."
    least = {name: of.interval[0] if of.interval else math.inf for name, of in ability.benchmarks.items()}
    if surely := {name: loss for name, loss in least.items() if loss >= limit}:
        lost = ", ".join(f"{name} surely loses {points(loss, sign=False)} points" for name, loss in surely.items())
        message, passed = f"{message} Of the benchmarks, {lost}.", False
    if text := ability.text:
        if not text.before or text.before < 0 or text.rise is None or text.interval is None:
            return answer(name, False, None, limit, "What plain text costs was not measured.", _TO_DO[name])
        bound, allowed = text.interval[1] / text.before, spec.gates.max_text_loss
        message += f" Plain text costs {text.rise / text.before:+.1%} bits (surely at most {bound:+.1%}; allowed {allowed:+.0%})."
        passed = passed and bound < allowed
    return answer(name, passed, high, limit, message, _TO_DO[name])


def human_review(spec: TaskSpec, people: People | None) -> GateResult:
    """Enough answers of the random half were judged, and enough of them are surely accepted."""
    name, wanted, least = "human_review", spec.gates.min_rated, spec.gates.min_accepted
    if not wanted:
        return answer(name, "not_asked", None, least, "The spec asks for no judgement by people.", "")
    ratings = (people.random if people else None) or Ratings()
    n, share, interval = ratings.n or 0, ratings.candidate.share, ratings.candidate.interval
    if n < wanted or share is None or interval is None:
        message = f"People have judged {n} of {wanted} answers drawn at random."
        return answer(name, False, None, least, message, _TO_DO[name])
    message = (
        f"People accept {percent(share)} of {counted(n, 'answer')} drawn at random ({percent_range(interval)}); surely "
        f"{percent(least)} are asked for."
    )
    return answer(name, interval[0] >= least, interval[0], least, message, _TO_DO[name])


def robust_rows(spec: TaskSpec, measured: PerturbedRows | None) -> GateResult:
    """No perturbation production brings surely costs too much (robustness.robustness_verdict)."""
    verdict = robustness_verdict(spec.robustness, measured)
    limit = spec.robustness.max_drop
    return answer("robust", verdict.status, verdict.largest_drop, limit, verdict.sentence, _TO_DO["robust"])


def judge(spec: TaskSpec, findings: JudgeFindings | None) -> GateResult:
    """The judge is believed, and surely prefers the candidate often enough."""
    name, least = "judge", spec.gates.min_preferred
    if not least:
        return answer(name, "not_asked", None, least, "The spec lets no judge decide.", "")
    if findings is None or findings.believed is not True:
        why = "; ".join(findings.refused if findings else []) or "none was asked"
        return answer(name, False, None, least, f"There is no judge to be believed: {why}.", _TO_DO[name])
    preferred = findings.verdict
    if preferred is None or preferred.share is None or preferred.interval is None:
        return answer(name, False, None, least, "The judge decided no pair.", _TO_DO[name])
    low = preferred.interval[0]
    message = (
        f"The judge prefers the fine-tuned answer in {percent(preferred.share)} of "
        f"{counted(preferred.wins + preferred.losses, 'decided pair')} ({percent_range(preferred.interval)}); surely "
        f"{percent(least)} are asked for."
    )
    return answer(name, low >= least, low, least, message, _TO_DO[name])


def recent_production(spec: TaskSpec, production: Production | None, champion: str | None) -> GateResult:
    """Refuse a candidate whose whole interval of the gain on recent production rows lies below zero.

    Corrected rows favour whoever did not answer them, which is the candidate: that it loses all the same is evidence, that
    it wins is not, and nobody is promoted by it. Too few rows refuse nobody; enough rows that were not compared do.

    Args:
        spec: The task.
        production: Of the evaluation.
        champion: The version in service, if any.
    """
    name = "recent_production"
    if production is None:
        message = "No production rows with a known answer are kept to judge (logs.judging_share)."
        return answer(name, "not_asked", None, 0.0, message, "")
    rows, other = production.rows, "champion" if champion else "base"
    if production.judged is False and rows.rows is not None:
        message = f"{rows.rows} recent production rows with a known answer; fewer than {FEWEST} tell nothing."
        return answer(name, "not_asked", None, 0.0, message, "")
    comparison = production.comparisons.get(other)
    if production.judged and other == "base" and comparison is None:
        message = "The baseline is an API model, which production rows are not sent to: nothing to compare with."
        return answer(name, "not_asked", None, 0.0, message, "")
    if not production.judged or comparison is None or comparison.gain is None or comparison.interval is None:
        return answer(name, False, None, 0.0, "Recent production rows were not compared.", _TO_DO[name])
    message = (
        f"On {comparison.n} recent production rows ({rows.confirmed} confirmed, the others corrected): "
        f"{points(comparison.gain)} points against the {other} ({points_range(comparison.interval)}), "
        f"{len(comparison.broken)} of its right answers lost."
    )
    high = comparison.interval[1]
    return answer(name, high >= 0, high, 0.0, message, _TO_DO[name])
