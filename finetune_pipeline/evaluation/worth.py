"""Is it worth training at all? Asked of the prompted base model's scores, before any training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.wording import is_interval, is_number, percent, percent_range, prompt_name
from finetune_pipeline.spec.model import TaskSpec

CLOSES_MOST = 0.5
"""Constrained decoding closes most of the gap to the ceiling when it closes at least this share of it."""


def worth_training(spec: TaskSpec, baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Judge the facts of :func:`finetune_pipeline.evaluation.baseline.score_baselines`.

    Returns {passed, reason, best, accuracy, interval, ceiling, constrained_decoding {accuracy, closes_share,
    enough_first} or null}. Not passed when the best prompt's lower bound is at or above spec.baseline.ceiling, or when
    the facts are missing or not numbers: nobody should train on a guess. `reason` is the sentence to show. For text
    tasks the accuracy is exact match.
    """
    ceiling = spec.baseline.ceiling
    result: dict[str, Any] = {"passed": False, "ceiling": ceiling, "constrained_decoding": None}
    best = baseline.get("best")
    scores = (baseline.get("prompts") or {}).get(best) or {}
    accuracy, interval = scores.get("accuracy"), scores.get("interval")
    result |= {"best": best, "accuracy": accuracy, "interval": interval}
    if not is_number(accuracy) or not is_interval(interval):
        return result | {
            "reason": "The prompted baseline has no usable score, so nobody can tell whether training "
            "pays. Materialize few_shot_baseline again and read its metadata."
        }
    low = interval[0]
    measured = f"{percent(accuracy)} right on validation (interval {percent_range(interval)})"
    if low >= ceiling:
        return result | {
            "reason": f"Prompting is enough: {prompt_name(best)} is {measured}, surely at or above the "
            f"ceiling of {percent(ceiling)}. Use that prompt; fine-tuning would add cost and "
            "little else."
        }
    reason = (
        f"Training may pay: the best prompt, {prompt_name(best)}, is {measured}; the ceiling above which it "
        f"would not is {percent(ceiling)}."
    )
    decoding = _constrained_decoding(baseline, accuracy, ceiling)
    if decoding and decoding["enough_first"]:
        reason += (
            f" But try constrained decoding first: with the answer restricted to the labels, the same base "
            f"model is {percent(decoding['accuracy'])} right ({prompt_name(decoding['prompt'])}), which closes "
            f"{percent(decoding['closes_share'])} of the gap to the ceiling without any training. The model "
            f"can tell the labels apart; it does not keep to the form."
        )
    return result | {"passed": True, "reason": reason, "constrained_decoding": decoding}


def _constrained_decoding(baseline: Mapping[str, Any], accuracy: float, ceiling: float) -> dict[str, Any] | None:
    """Best accuracy by label likelihood over the prompts, and the share of the gap to the ceiling it closes."""
    by_prompt = {name: s.get("likelihood_accuracy") for name, s in baseline["prompts"].items()}
    usable = {name: value for name, value in by_prompt.items() if is_number(value)}
    if not usable:
        return None
    prompt = max(usable, key=lambda name: usable[name])
    gap = ceiling - accuracy
    closes = min(1.0, max(0.0, usable[prompt] - accuracy) / gap) if gap > 0 else 0.0
    return {"prompt": prompt, "accuracy": usable[prompt], "closes_share": closes, "enough_first": closes >= CLOSES_MOST}
