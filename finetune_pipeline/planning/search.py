"""Search for the nearest plan that fits: settings that need less memory, in the order of what they cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from finetune_pipeline.spec.method_defaults import default

_SHORTEST = 256
"""Tokens below which training.max_tokens is not proposed."""
WHY = {
    "micro_batch_size": "what is learned stays the same; it takes longer",
    "gradient_checkpointing": "about a third slower, with the same result",
    "unquantized_epochs": "the base stays in four bits throughout: small bases lose some of what they learned when merged",
    "method": "the base lies in 16 or 4 bits, and gradients and optimiser states are kept for a hundredth of the weights",
    "max_tokens": "longer examples lose the beginning of their user text, or are left out (training.over_length)",
}
"""What each change costs, in a sentence."""


def ladder(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Settings that need less and less memory, the cheapest change first; each with every smaller micro-batch.

    Order: smaller micro-batch (same result), gradient checkpointing (same result), no second phase of qlora, low-rank
    training instead of full, four bits, shorter examples.
    """
    for rung in _rungs(dict(settings)):
        batch = rung["batch_size"]
        micro = [n for n in range(rung["micro_batch_size"], 0, -1) if batch % n == 0]
        yield from ({**rung, "micro_batch_size": n} for n in micro)


def _rungs(now: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield now
    if now["method"] != "prefix" and now["gradient_checkpointing"] is not True:
        now = {**now, "gradient_checkpointing": True}
        yield now
    if now["method"] == "qlora" and now["unquantized_epochs"]:
        now = {**now, "unquantized_epochs": 0.0}
        yield now
    if now["method"] == "full":
        now = {**now, "method": "lora", "learning_rate": default("lora", "learning_rate")}
        yield now
    if now["method"] != "qlora":
        rate = now["learning_rate"] if now["method"] == "lora" else default("qlora", "learning_rate")
        lora = {**now["lora"], "init": "default"} if now["lora"]["init"] == "orthogonal" else now["lora"]
        now = {**now, "method": "qlora", "unquantized_epochs": 0.0, "learning_rate": rate, "lora": lora}
        now["gradient_checkpointing"] = True
        yield now
    while now["max_tokens"] > _SHORTEST:
        now = {**now, "max_tokens": max(_SHORTEST, now["max_tokens"] // 2)}
        if now["over_length"] == "fail":
            now["over_length"] = "truncate_prompt"
        yield now


@dataclass(frozen=True, slots=True)
class Rung:
    """One plan that was tried: the settings changed, the bytes it needs, and whether it fits."""

    change: dict[str, Any]
    bytes: int
    fits: bool


def nearest(
    settings: Mapping[str, Any], needs: Callable[[Mapping[str, Any]], int], available: int
) -> tuple[dict[str, Any] | None, list[Rung]]:
    """(the first settings on the ladder that need at most `available` bytes, or None; every rung tried on the way)."""
    rungs: list[Rung] = []
    for candidate in ladder(settings):
        needed = needs(candidate)
        rungs.append(Rung(changes(settings, candidate), needed, needed <= available))
        if rungs[-1].fits:
            return candidate, rungs
    return None, rungs


def changes(settings: Mapping[str, Any], candidate: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of `candidate` that differ from `settings`, with their new values."""
    return {key: value for key, value in candidate.items() if value != settings.get(key)}


def as_yaml(change: Mapping[str, Any]) -> str:
    """The lines of task.yaml that make the change."""
    return str(yaml.safe_dump({"training": dict(change)}, sort_keys=False)).rstrip()


def reasons(change: Mapping[str, Any]) -> list[str]:
    """What each changed key costs."""
    return [f"{key}: {WHY[key]}" for key in change if key in WHY]
