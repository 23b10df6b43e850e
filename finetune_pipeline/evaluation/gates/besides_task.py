"""Gates on what the task's own test does not show."""

import math

from finetune_pipeline.evaluation.gates.base import DEFAULTS, Outcome, gate
from finetune_pipeline.evaluation.judged_facts import Ability, JudgeFindings, People, Ratings
from finetune_pipeline.evaluation.production_rows import FEWEST
from finetune_pipeline.evaluation.result import EvaluationResult
from finetune_pipeline.evaluation.result_parts import PerturbedRows
from finetune_pipeline.evaluation.robustness import robustness_verdict
from finetune_pipeline.evaluation.step_facts import Parity
from finetune_pipeline.evaluation.wording import counted, percent, percent_range, points, points_range
from finetune_pipeline.spec.evaluation import ENOUGH_ROWS, RobustnessSpec
from finetune_pipeline.spec.methods import kind_of
from finetune_pipeline.spec.methods.base import ENDPOINT
from finetune_pipeline.spec.model import TaskSpec


@gate(
    order=80,
    reads=lambda evaluation: evaluation.parity,
    needs="the served model gives the trained model's answer on gates.parity_min_agreement of the rows",
    default=f"{DEFAULTS.parity_min_agreement:g}",
    holds_back="everything after the merge",
    what_to_do="Do not ship this model: it is not the one that was trained. Make merged_model again; if it fails "
    "again, serve base and adapter as they were trained, and report the fault.",
)
def merge_parity(spec: TaskSpec, parity: Parity) -> Outcome:
    threshold, share = spec.gates.parity_min_agreement, parity.same_greedy_share
    if parity.kind == ENDPOINT.name:
        return Outcome("not_asked", None, threshold, "The model is hosted where it was trained: nothing was merged.")
    if not parity.rows or share is None:
        return Outcome(False, None, threshold, "The served model was not compared with the trained one.")
    words = kind_of(parity.kind)
    message = (
        f"{percent(share)} of {counted(parity.rows, 'answer')} are the same from {words.trained} and {words.served}; "
        f"{percent(threshold)} are asked for."
    )
    passed = share >= threshold and parity.passed is True
    if "mean_kl_limit" in parity.model_fields_set:
        kl, limit = parity.mean_kl, parity.mean_kl_limit
        if kl is None or limit is None:
            return Outcome(False, share, threshold, message + " Their divergence could not be measured.")
        passed = passed and kl <= limit
        message += f" Mean divergence {kl:.2g} nats a token, at most {limit:.2g} allowed."
    return Outcome(passed, share, threshold, message)


@gate(
    order=110,
    reads=lambda evaluation: evaluation.judge,
    needs="a judge that agrees with people (evaluation.judge), and the lower bound of the share of decided pairs in which it "
    "prefers the candidate to the base at or above gates.min_preferred; not asked where gates.min_preferred is 0",
    default=f"{DEFAULTS.min_preferred:g}",
    holds_back="champion",
    what_to_do="Where the judge is not believed: have people rate more pairs (`finetune review TASK`), or take another judging "
    "model. Where it is: read the pairs it decides against the candidate, and add training rows like them.",
)
def judge(spec: TaskSpec, findings: JudgeFindings | None) -> Outcome:
    least = spec.gates.min_preferred
    if not least:
        return Outcome("not_asked", None, least, "The spec asks for no judge.")
    if findings is None or findings.believed is not True:
        why = "; ".join(findings.refused if findings else []) or "none was asked"
        return Outcome(False, None, least, f"No judge can be trusted: {why}.")
    preferred = findings.verdict
    if preferred is None or preferred.share is None or preferred.interval is None:
        return Outcome(False, None, least, "The judge decided no pair.")
    low = preferred.interval[0]
    message = (
        f"The judge prefers the fine-tuned answer in {percent(preferred.share)} of "
        f"{counted(preferred.wins + preferred.losses, 'decided pair')} ({percent_range(preferred.interval)}); surely "
        f"{percent(least)} are asked for."
    )
    return Outcome(low >= least, low, least, message)


@gate(
    order=120,
    reads=lambda evaluation: evaluation.ability,
    needs="the upper bound of the accuracy lost on questions besides the task below gates.max_ability_loss, no benchmark of your "
    "own that surely loses as much, and the upper bound of the relative rise of the bits plain text costs below "
    "gates.max_text_loss; not asked where the spec asks nothing or the model answers at an endpoint",
    default=f"{DEFAULTS.max_ability_loss:g}, {DEFAULTS.max_text_loss:g}",
    holds_back="champion",
    what_to_do="Train more gently: fewer epochs, a lower learning rate, a smaller rank, or qlora or lora in place of full. Mix "
    "some general examples into the training data. If only this one task will ever be asked of the model, raise the limits.",
)
def general_ability(spec: TaskSpec, ability: Ability | None) -> Outcome:
    """Measured: the upper bound of the lost accuracy."""
    limit = spec.gates.max_ability_loss
    asked = spec.ability.suite or spec.ability.files or spec.ability.harness.tasks
    if ability is not None and ability.items == 0 and (ability.not_asked or not asked):
        return Outcome("not_asked", None, limit, ability.not_asked or "The spec asks for no test of general ability.")
    if ability is None or ability.drop is None or ability.interval is None:
        return Outcome(False, None, limit, "General ability was not measured.")
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
            return Outcome(False, None, limit, "The bits per byte on plain text were not measured.")
        bound, allowed = text.interval[1] / text.before, spec.gates.max_text_loss
        message += f" Plain text costs {text.rise / text.before:+.1%} bits (surely at most {bound:+.1%}; allowed {allowed:+.0%})."
        passed = passed and bound < allowed
    return Outcome(passed, high, limit, message)


@gate(
    order=130,
    reads=lambda evaluation: evaluation.people,
    needs="gates.min_rated answers drawn at random judged by people, and the lower bound of the accepted share at or above "
    "gates.min_accepted; not asked where gates.min_rated is 0",
    default=f"{DEFAULTS.min_rated:d}, {DEFAULTS.min_accepted:g}",
    holds_back="champion",
    what_to_do="Open `finetune review TASK`, or have more people judge the sheet. Where they refuse answers, read their comments "
    "in the report and add training rows like the ones that were refused.",
)
def human_review(spec: TaskSpec, people: People | None) -> Outcome:
    wanted, least = spec.gates.min_rated, spec.gates.min_accepted
    if not wanted:
        return Outcome("not_asked", None, least, "The spec asks for no human review.")
    ratings = (people.random if people else None) or Ratings()
    n, share, interval = ratings.n or 0, ratings.candidate.share, ratings.candidate.interval
    if n < wanted or share is None or interval is None:
        return Outcome(False, None, least, f"People have judged {n} of {wanted} answers drawn at random.")
    message = (
        f"People accept {percent(share)} of {counted(n, 'answer')} drawn at random ({percent_range(interval)}); surely "
        f"{percent(least)} are asked for."
    )
    return Outcome(interval[0] >= least, interval[0], least, message)


PERTURBED = RobustnessSpec.model_validate({})


@gate(
    order=140,
    reads=lambda evaluation: evaluation.robustness,
    needs=f"no perturbation that production brings (typing errors, another case, a greeting and thanks), measured on {ENOUGH_ROWS} "
    "test rows or more, costs more than robustness.max_drop and surely something; on fewer rows, or with robustness.action: "
    "warn, it holds nothing back; not asked where robustness.rows is 0",
    default=f"{PERTURBED.max_drop:g}, {PERTURBED.action}",
    holds_back="champion, with robustness.action: block",
    what_to_do="Set training.augment: true, which gives training rows the same perturbations, or add training rows written that "
    "way. Or take the perturbation away before the model sees it (strip greetings and thanks).",
)
def robust(spec: TaskSpec, measured: PerturbedRows | None) -> Outcome:
    verdict = robustness_verdict(spec.robustness, measured)
    return Outcome(verdict.status, verdict.largest_drop, spec.robustness.max_drop, verdict.sentence)


@gate(
    order=150,
    needs="on recent production rows with a known answer, which no version was trained on, the candidate is not shown to be "
    f"worse than the champion (the base model where there is none); not asked where there are fewer than {FEWEST} such rows",
    default="logs.judging_share 0.2",
    holds_back="champion",
    what_to_do="Keep the champion: the candidate is better on the collected data but worse on current requests. Look at the "
    "drift page, and train again with the newest corrections.",
)
def recent_production(spec: TaskSpec, evaluation: EvaluationResult) -> Outcome:
    """Refuse a candidate whose whole interval of the gain on recent production rows lies below zero.

    Corrected rows favour the candidate, who did not answer them: that it loses all the same is evidence, that it wins is not.
    Too few rows refuse nobody; enough rows that were not compared do.
    """
    production = evaluation.production
    if production is None:
        message = "No production rows with a known answer are kept to judge (logs.judging_share)."
        return Outcome("not_asked", None, 0.0, message)
    rows, other = production.rows, "champion" if evaluation.versions.get("champion") else "base"
    if production.judged is False and rows.rows is not None:
        message = f"{rows.rows} recent production rows with a known answer; fewer than {FEWEST} tell nothing."
        return Outcome("not_asked", None, 0.0, message)
    comparison = production.comparisons.get(other)
    if production.judged and other == "base" and comparison is None:
        message = "The baseline is an API model, which production rows are not sent to: nothing to compare with."
        return Outcome("not_asked", None, 0.0, message)
    if not production.judged or comparison is None or comparison.gain is None or comparison.interval is None:
        return Outcome(False, None, 0.0, "Recent production rows were not compared.")
    message = (
        f"On {comparison.n} recent production rows ({rows.confirmed} confirmed, the others corrected): "
        f"{points(comparison.gain)} points against the {other} ({points_range(comparison.interval)}), "
        f"{len(comparison.broken)} of its right answers lost."
    )
    high = comparison.interval[1]
    return Outcome(high >= 0, high, 0.0, message)
