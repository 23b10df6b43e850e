"""What is good enough without training: alternatives that surely reach a share of right answers, such as baseline.ceiling."""

from collections.abc import Sequence
from functools import partial

from finetune_pipeline.baseline.ladder import Answered, Rows
from finetune_pipeline.baseline.reasons import measured_accuracy
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.metrics.exact import Exact
from finetune_pipeline.evaluation.predictions import API, prompts_of
from finetune_pipeline.evaluation.prompts import DOCUMENTS, EMBEDDED, NEAREST
from finetune_pipeline.evaluation.rivals import ScoredBaselines, restricted_rows, simple_rows
from finetune_pipeline.evaluation.simple_models import BLIND, SIMPLE_MODELS
from finetune_pipeline.evaluation.statistics.multiple_testing import surely_at_least
from finetune_pipeline.evaluation.statistics.proportions import Interval
from finetune_pipeline.evaluation.wording import percent, prompt_name
from finetune_pipeline.spec.model import TaskSpec

RIGHT = Exact()
CLOSES_MOST = 0.5
"""Restricted answers or the nearest examples close most of the gap to the ceiling if they close at least this share."""


class Worth(Facts, frozen=True, kw_only=True):
    """Whether training may be worth it. best: the best prompt; enough: the alternative that is good enough, if one is; shippable:
    whether the sealed test may decide without training: what is enough, or its like, could be put into service."""

    passed: bool
    reason: str
    best: str
    enough: str | None
    shippable: bool = False

    def skips_training(self, spec: TaskSpec) -> bool:
        """Whether nothing is trained, and the sealed test compares what there is without training."""
        return not self.passed and self.shippable and spec.gates.worth_training == "block"


def sure_of(spec: TaskSpec, alternatives: Sequence[Sequence[Row]], least: float, sources: SourceOf = None) -> list[int]:
    """The indices of those alternatives whose rows are surely good enough (:func:`_score_interval` at or above `least`), corrected
    for the number of alternatives looked at (multiple_testing.surely_at_least)."""
    intervals = [partial(_score_interval, spec, rows, sources) for rows in alternatives]
    return surely_at_least(intervals, least, spec.gates.confidence)


def _score_interval(spec: TaskSpec, rows: Sequence[Row], sources: SourceOf, confidence: float) -> Interval | None:
    """The lower of two intervals: of the share of right answers, and of the rank in the metric that decides. With rare labels, the
    commonest answer is mostly right and has a low macro-F1."""
    metric, clusters = METRICS[spec.metric], shared_sources(rows, sources)
    right = RIGHT.interval(rows, spec.output, confidence, clusters)
    interval = right if metric.right_or_wrong else metric.interval(rows, spec.output, confidence, clusters)
    if interval is None:
        return None
    low, high = sorted(map(metric.rank, interval))
    return min(low, right[0]), min(high, right[1])


def good_enough(
    spec: TaskSpec, baseline: ScoredBaselines, rows: Rows, least: float, sources: SourceOf = None
) -> list[tuple[str, str, str]]:
    """Everything that is surely right on at least a share `least` of the rows, and in the metric that decides as good, as (prompt,
    retrieve, documents or simple; name; sentence for people): the best prompt first, then restricted answers, then simple
    models, best first."""
    prompts, best, simple = baseline.prompts, baseline.best, simple_rows(rows)
    in_form = {name: scores for name, prompt in prompts.items() if (scores := prompt.restricted)}
    names = prompts_of(rows)
    restricted = {name: answers for name in names if (answers := restricted_rows(rows, name, spec.output))}
    alternatives = [
        *(("prompt", name, rows[name]) for name in names),
        *(("restricted", name, answers) for name, answers in restricted.items()),
        *(("simple", name, answers) for name, answers in simple.items()),
    ]
    named = sure_of(spec, [answers for _, _, answers in alternatives], least, sources)
    sure = {alternatives[i][:2] for i in named}
    above = f"surely at or above {percent(least)}"
    enough = []
    if ("prompt", best) in sure:
        sentence = f"Prompting is enough: {prompt_name(best)} is {measured_accuracy(prompts[best])}, {above}."
        kinds = {NEAREST: "retrieve", EMBEDDED: "retrieve", DOCUMENTS: "documents"}
        enough.append((next((kind for end, kind in kinds.items() if best.endswith(end)), "prompt"), best, sentence))
    for name in restricted:
        if ("restricted", name) in sure:
            sentence = (
                f"Restrict the answers to the allowed forms: the base model, {prompt_name(name)}, is then "
                f"{measured_accuracy(in_form[name])}, {above}. It knows the task but does not keep to the form."
            )
            enough.append(("prompt", f"{name}, restricted", sentence))
    for name in sorted(simple, key=lambda name: -baseline.simple[name].accuracy):
        if ("simple", name) in sure:
            sentence = (
                f"Fine-tuning is not needed: {SIMPLE_MODELS[name].title}, made in seconds from the same rows, is "
                f"{measured_accuracy(baseline.simple[name])}, {above}. `finetune export TASK --simple --to DIR` writes it."
            )
            enough.append(("simple", name, sentence))
    return enough


def worth_training(spec: TaskSpec, baseline: ScoredBaselines, rows: Rows, sources: SourceOf = None) -> Worth:
    """Judge the facts of :func:`finetune_pipeline.evaluation.rivals.score_baselines`, and the rows that they score.

    Training is not worth it if anything simpler is surely at or above baseline.ceiling (:func:`good_enough`).
    """
    ceiling, best = spec.baseline.ceiling, baseline.best
    for _, name, sentence in good_enough(spec, baseline, rows, ceiling, sources):
        return Worth(
            passed=False, reason=sentence, best=best, enough=name, shippable=_is_shippable(spec, baseline, name)
        )
    scores = baseline.prompts[best]
    reason = (
        f"Training may pay: the best prompt, {prompt_name(best)}, is {measured_accuracy(scores)}; the ceiling above which it "
        f"would not is {percent(ceiling)}."
    )
    restricted = {name: r.accuracy for name, s in baseline.prompts.items() if (r := s.restricted)}
    prompt = max(restricted, key=lambda name: restricted[name], default=best)
    gap, added = ceiling - scores.accuracy, restricted.get(prompt, 0.0) - scores.accuracy
    if 0 < CLOSES_MOST * gap <= added:
        reason += (
            f" But try restricting the answers first: the same base model, its answers restricted to the allowed forms, is "
            f"{percent(restricted[prompt])} right ({prompt_name(prompt)}), which closes {percent(min(1.0, added / gap))} of "
            "the gap to the ceiling without any training."
        )
    return Worth(passed=True, reason=reason, best=best, enough=None)


def _is_shippable(spec: TaskSpec, baseline: ScoredBaselines, enough: str) -> bool:
    """Whether there is a finalist without training (finalists.contenders) that may pass its gates. People rate answers only beside
    those of a fine-tuned model; an API model and the commonest answer are never shipped."""
    finalists = bool(baseline.simple) or not baseline.best.startswith(API)
    return finalists and not enough.startswith(API) and enough not in BLIND and not spec.gates.min_rated


def enough_rungs(spec: TaskSpec, answered: Sequence[Answered], sources: SourceOf = None) -> list[Answered]:
    """The rungs without training that are surely at or above baseline.ceiling, simplest first (:func:`sure_of`)."""
    untrained = [answers for answers in answered if answers.kind != "tuned"]
    return [untrained[i] for i in sure_of(spec, [a.rows for a in untrained], spec.baseline.ceiling, sources)]
