"""Checks before training whether a prompt or a simple model is already good enough on validation."""

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.baseline.advice_sentences import measured_accuracy
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.prompts import DOCUMENTS, EMBEDDED, NEAREST
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS
from finetune_pipeline.evaluation.wording import percent, prompt_name
from finetune_pipeline.spec.model import TaskSpec

CLOSES_MOST = 0.5
"""Restricted answers close most of the gap to the ceiling if they close at least this share."""


def worth_training(spec: TaskSpec, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Judge the facts of :func:`finetune_pipeline.evaluation.rivals.score_baselines`.

    Training is not worth it if anything simpler is (by the lower bound of its interval) at or above
    baseline.ceiling: a prompt, its restricted answers, or a simple model.

    Returns:
        {passed, reason (a sentence for people), best (prompt), enough: name of the alternative that is good enough, or null}.
    """
    ceiling, best = spec.baseline.ceiling, baseline["best"]
    for _, name, sentence in good_enough(baseline, ceiling):
        return {"passed": False, "reason": sentence, "best": best, "enough": name}
    scores = baseline["prompts"][best]
    reason = (
        f"Training may pay: the best prompt, {prompt_name(best)}, is {measured_accuracy(scores)}; the ceiling above which it "
        f"would not is {percent(ceiling)}."
    )
    restricted = {
        name: r["accuracy"] for name, scores in baseline["prompts"].items() if (r := scores.get("restricted"))
    }
    prompt = max(restricted, key=lambda name: restricted[name], default=best)
    gap, added = ceiling - scores["accuracy"], restricted.get(prompt, 0.0) - scores["accuracy"]
    if 0 < CLOSES_MOST * gap <= added:
        reason += (
            f" But try restricting the answers first: the same base model, its answers restricted to the allowed forms, is "
            f"{percent(restricted[prompt])} right ({prompt_name(prompt)}), which closes {percent(min(1.0, added / gap))} of "
            "the gap to the ceiling without any training."
        )
    return {"passed": True, "reason": reason, "best": best, "enough": None}


def good_enough(baseline: Mapping[str, Any], least: float) -> list[tuple[str, str, str]]:
    """Everything that is surely right on at least a share `least` of the rows, and in the metric that decides as good, as (prompt,
    retrieve, documents or simple; name; sentence for people): the best prompt first, then restricted answers, then simple
    models, best first."""
    prompts, best, simple = baseline["prompts"], baseline["best"], baseline.get("simple") or {}
    above = f"surely at or above {percent(least)}"
    enough = []
    if _surely(prompts[best], least):
        sentence = f"Prompting is enough: {prompt_name(best)} is {measured_accuracy(prompts[best])}, {above}."
        kinds = {NEAREST: "retrieve", EMBEDDED: "retrieve", DOCUMENTS: "documents"}
        enough.append((next((kind for end, kind in kinds.items() if best.endswith(end)), "prompt"), best, sentence))
    for name, scores in prompts.items():
        if _surely(restricted := scores.get("restricted"), least):
            sentence = (
                f"Restrict the answers to the allowed forms: the base model, {prompt_name(name)}, is then "
                f"{measured_accuracy(restricted)}, {above}. It knows the task but does not keep to the form."
            )
            enough.append(("prompt", f"{name}, restricted", sentence))
    for name in sorted(simple, key=lambda name: -simple[name]["accuracy"]):
        if _surely(simple[name], least):
            sentence = (
                f"A language model is not needed: {SIMPLE_MODELS[name].title}, made in seconds from the same rows, is "
                f"{measured_accuracy(simple[name])}, {above}. `finetune export TASK --simple --to DIR` writes it."
            )
            enough.append(("simple", name, sentence))
    return enough


def _surely(scores: Mapping[str, Any] | None, least: float) -> bool:
    """Whether right answers and the metric that decides are surely at or above `least`: with rare labels, the commonest answer
    is mostly right and has a low macro-F1."""
    if scores is None or scores["interval"][0] < least:
        return False
    name, interval = scores["primary"]["name"], scores["primary"]["interval"]
    return interval is not None and min(map(METRICS[name].rank, interval)) >= least
