"""What a candidate cost to make, and what an answer costs in tokens: base with its best prompt against fine-tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.predictions import of_the_test
from finetune_pipeline.evaluation.wording import is_number


def costs(
    predictions: Sequence[Mapping[str, Any]], measured: Mapping[str, Mapping[str, Any]], plan: Mapping[str, Any]
) -> dict[str, Any]:
    """Facts for the report's section on cost.

    predictions: rows of all models on the sealed test (those on other rows do not count); measured: per step what its
    process measured (seconds, cpu_seconds, peak_memory_mib; train_seconds: without loading and saving); plan: facts of
    training_plan. Returns steps
    {name: these four}, seconds (their sum), planned (what the plan gave for training: {low, expected, high}), prices (the
    plan's estimates elsewhere), tokens {model: {prompt, answer}} (means per request) and saved_share: the share of the base
    model's tokens per request that the fine-tuned one needs no more; null when either is unknown, negative when it needs
    more.
    """
    steps = {
        name: {key: told.get(key) for key in ("seconds", "cpu_seconds", "train_seconds", "peak_memory_mib")}
        for name, told in measured.items()
        if is_number(told.get("seconds"))
    }
    tokens = {
        model: {
            "prompt": sum(row["prompt_tokens"] for row in rows) / len(rows),
            "answer": sum(row["new_tokens"] for row in rows) / len(rows),
        }
        for model in dict.fromkeys(row["model"] for row in predictions if of_the_test(row["model"]))
        if (rows := [row for row in predictions if row["model"] == model])
    }
    before, after = (sum(tokens[name].values()) if name in tokens else 0 for name in ("base", "candidate"))
    return {
        "steps": steps,
        "seconds": sum(told["seconds"] for told in steps.values()),
        "planned": plan.get("seconds"),
        "prices": list(plan.get("prices") or []),
        "tokens": tokens,
        "saved_share": 1 - after / before if before and after else None,
    }
