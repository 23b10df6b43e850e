"""What the measured answers show, in figures and sentences: the reasons for a decision, and what would change it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from finetune_pipeline.baseline.ladder import Rows, Rung, Scored, Terms
from finetune_pipeline.baseline.learning_curve import Extrapolation, Point, rows_for
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row, is_right
from finetune_pipeline.evaluation.failures.kinds import KINDS, failure_of
from finetune_pipeline.evaluation.metrics import METRICS, is_right_or_wrong, metric_title
from finetune_pipeline.evaluation.predictions import API, SIMPLE
from finetune_pipeline.evaluation.prompts import NEAREST, fixed_prompts
from finetune_pipeline.evaluation.rivals import Baseline, BaselineScores, Rival, ScoredBaselines
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.simple_models.commonest import CommonestAnswer
from finetune_pipeline.evaluation.wording import (
    counted,
    dollars,
    inside,
    percent,
    percent_range,
    points,
    points_range,
    prompt_name,
)
from finetune_pipeline.spec.model import TaskSpec


class Failures(Facts, frozen=True, kw_only=True):
    """Wrong answers of the base model's best prompt without retrieval, by what would help.

    Attributes:
        form: Not in form, or of another style: fine-tuning helps.
        knowledge: In form and wrong, but right with the nearest training examples: retrieval helps; None without retrieval.
        judgement: In form, and wrong with them too.
        unnamed: Free texts with a difference that no rule can name.
        kinds: Counts by kind of failure.
    """

    prompt: str
    n: int
    right: int
    form: int
    judgement: int
    unnamed: int
    knowledge: int | None
    kinds: dict[str, int]


class Retrieval(Facts, frozen=True, kw_only=True):
    """The gain of the nearest examples (`prompt`) over the best prompt without them, in the deciding metric.

    closes: the share of the gap to the ceiling (or to 1 if the metric is not a share of right answers); None without a gap.
    """

    prompt: str
    over: str
    value: float | None
    gain: float
    interval: tuple[float, float] | None
    closes: float | None
    valid_share: float | None


class PromptTokens(Facts, frozen=True, kw_only=True):
    """Mean tokens of a call's prompt, and of its answer where that was measured."""

    prompt: float
    answer: float | None = None


class CallTokens(Facts, frozen=True, kw_only=True):
    """Tokens of one call with the best prompt, and without examples."""

    best: PromptTokens
    tuned: PromptTokens


FORM_KINDS = ("error", "empty", "refusal", "repetition", "truncated", "format")
"""Failures of form or style, which fine-tuning fixes first."""


def measured_accuracy(scores: BaselineScores) -> str:
    rows, between = counted(scores.n, "validation row"), percent_range(scores.interval)
    return f"right on {percent(scores.accuracy)} of {rows} ({between})"


def best_prompt(spec: TaskSpec, baseline: ScoredBaselines) -> str:
    name = baseline.best
    scores, title = baseline.prompts[name], metric_title(spec.metric)
    in_form = scores.restricted
    restricted = f" Restricted to the allowed forms it is {measured_accuracy(in_form)}." if in_form else ""
    hint = " Make that prompt the system_prompt, so that training uses it." if name.startswith("prompt_") else ""
    value = "" if is_right_or_wrong(spec.metric) else f"{title} {points(scores.primary.value, sign=False)}, "
    return (
        f"Best of {counted(len(baseline.prompts), 'prompt')}: {prompt_name(name)}, {value}{measured_accuracy(scores)}; "
        f"{percent(scores.valid_share)} of its answers are in form.{restricted}{hint}"
    )


def failure_sentences(failures: Failures, retrieval: Retrieval | None) -> list[str]:
    wrong = failures.n - failures.right
    if not wrong:
        return []
    parts = [f"{failures.form} are of form or style, which fine-tuning fixes first"]
    if retrieval is not None:
        parts.append(
            f"{failures.knowledge} come right once the nearest examples are shown: knowledge, which retrieval gives"
        )
    parts.append(f"{failures.judgement} stay wrong and must be learned")
    if failures.unnamed:
        parts.append(f"{failures.unnamed} differ from the gold text in nothing a rule can name")
    return [
        f"Of {counted(wrong, 'wrong answer')} of the best prompt without retrieval ({prompt_name(failures.prompt)}), "
        f"{'; '.join(parts)}."
    ]


def simple_sentences(spec: TaskSpec, baseline: ScoredBaselines, rows: Rows, sources: SourceOf) -> list[str]:
    """Scores of the simple models, and whether each is significantly above the most common answer."""
    sentences = []
    metric, constant = METRICS[spec.metric], rows.get(SIMPLE + CommonestAnswer.name, ())
    clusters = shared_sources(constant, sources)
    for name, scores in baseline.simple.items():
        sentence = f"{SIMPLE_MODELS[name].title}: {measured_accuracy(scores)}"
        if name != CommonestAnswer.name and constant:
            lead = metric.gain(constant, rows[SIMPLE + name], spec.output, spec.gates.confidence, clusters)
            if not lead.surely_above():
                sentence += ", which is not significantly above always giving the most common answer"
        sentences.append(f"{sentence}.")
    return sentences


def retrieval_adds(retrieval: Retrieval) -> str:
    return (
        f"Showing the {prompt_name(retrieval.prompt)} adds {points(retrieval.gain)} points "
        f"({points_range(retrieval.interval)}) to {prompt_name(retrieval.over)}"
    )


def must_reach_sentences(spec: TaskSpec, rival: Rival, must_reach: float | None) -> list[str]:
    if must_reach is None:
        return []
    return [
        f"To be promoted, a fine-tuned model has to reach about {percent(must_reach)} in {metric_title(spec.metric)} on the "
        f"test: what {rival.title} reaches ({percent(rival.value)}) and the smallest gain over it that these test rows show."
    ]


def cost_sentences(spec: TaskSpec, tokens: CallTokens | None) -> list[str]:
    calls, price = spec.advise.calls_per_month, spec.advise.dollars_per_million_tokens
    if tokens is None:
        return []
    before, after, answer = tokens.best.prompt, tokens.tuned.prompt, tokens.best.answer or 0.0
    sentence = (
        f"A call of the best prompt reads {before:,.0f} tokens and writes {answer:,.0f}; a fine-tuned model needs no examples "
        f"and reads {after:,.0f}."
    )
    if calls and before > after:
        saved, total = ((count * calls / 1e6) for count in (before - after, before + answer))
        paid = f", {saved * price:,.2f} of {total * price:,.2f} dollars" if price else ""
        sentence += f" At {calls:,} calls a month that is {saved:,.1f} million tokens less{paid}."
    return [sentence]


def privacy_sentences(spec: TaskSpec) -> list[str]:
    out = "API models and hosted training are out of the question"
    return [f"The texts must not leave your machines (advise.private): {out}."] if spec.advise.private else []


def failures_of(spec: TaskSpec, baseline: ScoredBaselines, rows: Rows) -> Failures:
    """Count the wrong answers of the base model's best prompt without retrieval, by what would help."""
    prompt = best_fixed(baseline)
    nearest = _nearest_prompt(baseline)
    counts, kinds = Counter[str](), Counter[str]()
    retrieved_rows = rows[nearest] if nearest else [None] * len(rows[prompt])
    for row, retrieved_row in zip(rows[prompt], retrieved_rows, strict=True):
        if is_right(row, spec.output):
            counts["right"] += 1
        elif (failure := failure_of(row, spec.output)) is None:
            counts["unnamed"] += 1
        else:
            kinds[failure.kind] += 1
            if failure.kind in FORM_KINDS:
                counts["form"] += 1
            elif retrieved_row is not None and is_right(retrieved_row, spec.output):
                counts["knowledge"] += 1
            else:
                counts["judgement"] += 1
    return Failures(
        prompt=prompt,
        n=len(rows[prompt]),
        right=counts["right"],
        form=counts["form"],
        judgement=counts["judgement"],
        unnamed=counts["unnamed"],
        knowledge=counts["knowledge"] if nearest else None,
        kinds={kind: kinds[kind] for kind in KINDS if kind in kinds},
    )


def retrieval_of(spec: TaskSpec, baseline: ScoredBaselines, rows: Rows, sources: SourceOf) -> Retrieval | None:
    """Return what the nearest examples gain; None without such a prompt."""
    nearest, fixed = _nearest_prompt(baseline), best_fixed(baseline)
    if nearest is None:
        return None
    clusters = shared_sources(rows[fixed], sources)
    gain = METRICS[spec.metric].gain(rows[fixed], rows[nearest], spec.output, spec.gates.confidence, clusters)
    scores = baseline.prompts[nearest]
    gap = goal_of(spec) - baseline.prompts[fixed].rank
    return Retrieval(
        prompt=nearest,
        over=fixed,
        value=scores.primary.value,
        gain=gain.gain,
        interval=gain.interval,
        closes=min(1.0, max(0.0, gain.gain) / gap) if gap > 0 else None,
        valid_share=scores.valid_share,
    )


def goal_of(spec: TaskSpec) -> float:
    """The rank that leaves nothing to gain."""
    return spec.baseline.ceiling if is_right_or_wrong(spec.metric) else 1.0


def tokens_of(baseline: Baseline) -> CallTokens | None:
    """Return the tokens of a call; None without a prompt that shows no example."""
    best, zero_shot = (baseline.prompt_details.get(name) for name in (baseline.best, "zero_shot"))
    if not best or not zero_shot:
        return None
    return CallTokens(
        best=PromptTokens(prompt=best.mean_prompt_tokens, answer=best.mean_new_tokens),
        tuned=PromptTokens(prompt=zero_shot.mean_prompt_tokens),
    )


def _nearest_prompt(baseline: ScoredBaselines) -> str | None:
    """The base model's prompt with the nearest training examples, if there is one."""
    base_prompts = [name for name in baseline.prompts if not name.startswith(API)]
    return next((name for name in base_prompts if name.endswith(NEAREST)), None)


def best_fixed(baseline: ScoredBaselines) -> str:
    """The base model's best prompt without retrieval."""
    prompts = baseline.prompts
    return max(fixed_prompts(prompts), key=lambda name: prompts[name].rank)


def reaches(spec: TaskSpec, rung: Rung) -> str:
    return f"{rung.title} reaches {percent(rung.value)} {metric_title(spec.metric)} on validation"


def ladder_reasons(rungs: Sequence[Rung], expected: Extrapolation | None, trainings: Sequence[Point]) -> list[str]:
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


def pair_reasons(spec: TaskSpec, rungs: Sequence[Rung]) -> list[str]:
    """Say what a pair costs: the best rung besides the API answers what it is sure of, the API the rest. Empty without a promised
    error, or without prices of both."""
    priced = [rung for rung in rungs if rung.dollars is not None and not rung.excluded]
    apis = [rung for rung in priced if rung.kind == "api" and rung.dollars]
    own = [rung for rung in priced if rung.kind != "api"]
    if spec.automation.max_error is None or not apis or not own:
        return []
    rank = METRICS[spec.metric].rank
    api, first = (max(side, key=lambda rung: rank(rung.value)) for side in (apis, own))
    assert api.dollars and first.dollars is not None
    least = 1 - first.dollars / api.dollars
    if least <= 0:
        return [f"A pair does not pay: {inside(first.title)} alone costs as much as {inside(api.title)}."]
    return [
        f"As a pair, {inside(first.title)} answers what it is sure of and {inside(api.title)} the rest: if that is 20%, 1,000 "
        f"calls cost {dollars(first.dollars + 0.2 * api.dollars)}, by the API alone {dollars(api.dollars)}. The pair is cheaper "
        f"while less than {percent(least)} are passed on."
    ]


def flips(
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
        sentences += [*_more_rows(expected, train_rows, terms.teacher_row), *_hardest_label(spec, largest_pilot)]
    if stands.kind != "simple":
        sentences += _break_even(spec, stands, terms, equal=True)
    return sentences


def _more_rows(expected: Extrapolation, train_rows: int, teacher_row: float | None) -> list[str]:
    """Sentences on what more rows would do. teacher_row: dollars of one from the teacher; None without a teacher."""
    if expected.gain_interval[0] > 0:
        return []  # the lead is sure already
    more = rows_for(-expected.gain_interval[0], expected.slope, train_rows)
    if more is None:
        why = "hardly help: the pilot's curve is too flat"
        if expected.slope <= 0:
            why = "not help: doubling them added nothing"
        return [
            f"More rows like these would {why}." + (" Buy no more of the teacher's answers." if teacher_row else "")
        ]
    sentences = [
        f"About {counted(more, 'more training row')} would make the lead of a trained model sure, if the curve of the pilot goes "
        f"on ({points(expected.slope)} points for a doubling)."
    ]
    if teacher_row:
        sentences.append(
            f"The teacher would answer these for about {dollars(more * teacher_row)}, at what 1,000 of its kept rows cost so far "
            f"({dollars(1000 * teacher_row)}): raise teacher.rows by {more:,}."
        )
    return sentences


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
