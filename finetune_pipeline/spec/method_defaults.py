"""Defaults of training settings by method, each with the source of its value.

This is the only place such values stand. A :class:`~finetune_pipeline.spec.model.TrainingSpec` takes them while it is
built, so that nothing behind it ever meets a setting without a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Method = Literal["qlora", "lora", "full", "prefix", "prompt"]
METHODS: tuple[Method, ...] = ("qlora", "lora", "full", "prefix", "prompt")
LOW_RANK = ("qlora", "lora")
SOFT_PROMPTS = ("prefix", "prompt")

_COMPARISON = "PEFT's method comparison (Llama-3.2-3B, MetaMathQA, 5000 steps of 4 rows, AdamW)"


@dataclass(frozen=True, slots=True)
class Default:
    """A value and where it comes from, in one sentence."""

    value: Any
    source: str


_COSINE = Default("cosine", f"the schedule of {_COMPARISON}")
_WARMUP = Default(0.05, "a twentieth of the steps; Adam's second moments are not settled before")
_BATCH = Default(8, "small enough for several steps an epoch with 500 examples, the fewest the pipeline trains on")
_MICRO = Default(8, "the whole step at once: rows with a common prefix cost little memory")
_NO_SECOND_PHASE = Default(0.0, "only qlora has a second phase: the other methods train on the unquantized base anyway")

DEFAULTS: dict[str, dict[Method, Default]] = {
    "learning_rate": {
        "qlora": Default(
            5e-4,
            "for bases well under 1B parameters and a few hundred steps; the QLoRA paper takes 2e-4 for 7B and 13B, 1e-4 "
            "above (Dettmers et al. 2023)",
        ),
        "lora": Default(
            5e-4, f"as qlora, whose second phase it is; for bases from 3B take 1e-4: 47.8% on GSM8K in {_COMPARISON}"
        ),
        "full": Default(1e-5, f"47.2% on GSM8K in {_COMPARISON}"),
        "prefix": Default(5e-3, f"41.6% on GSM8K in {_COMPARISON} with 50 tokens begun from a real text, 1e-3: 18.6%"),
        "prompt": Default(
            3e-3,
            f"between 1e-3, which gave 34.3% on GSM8K in {_COMPARISON} begun from vocabulary tokens (1e-4 and random: 5.7%), "
            "and what small bases and few steps want: after one epoch of ticket_triage (93 steps, 135M parameters) "
            "validation loss 0.71 with 1e-3, 0.50 with 3e-3, 0.47 with 1e-2",
        ),
    },
    "scheduler": dict.fromkeys(METHODS, _COSINE),
    "warmup_share": dict.fromkeys(METHODS, _WARMUP),
    "batch_size": dict.fromkeys(METHODS, _BATCH),
    "micro_batch_size": dict.fromkeys(METHODS, _MICRO),
    "unquantized_epochs": {
        **dict.fromkeys(METHODS, _NO_SECOND_PHASE),
        "qlora": Default(
            1.0,
            "measured with the bundled 135M model: validation loss 0.38 on the 4-bit base, 0.63 once moved to the "
            "unquantized one, 0.23 after one epoch there",
        ),
    },
}


def default(method: str, key: str) -> Any:
    """The value of `key` for `method`; an unknown method (refused elsewhere) gets qlora's."""
    table: Mapping[Any, Default] = DEFAULTS[key]
    return table.get(method, table["qlora"]).value


def by_method(key: str) -> Callable[[dict[str, Any]], Any]:
    """A pydantic default factory: the value of `key` for the method the spec has chosen."""
    return lambda settings: default(settings.get("method", "qlora"), key)


def largest_micro_batch(settings: dict[str, Any]) -> int:
    """Default of micro_batch_size: the largest divisor of the batch size up to the method's own value."""
    most = default(settings.get("method", "qlora"), "micro_batch_size")
    batch = settings.get("batch_size", most)
    return max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)


def described(key: str, meaning: str = "") -> str:
    """A field's description, with what it is for each method when unset."""
    methods: dict[Any, list[str]] = {}
    for method, setting in DEFAULTS[key].items():
        methods.setdefault(setting.value, []).append(method)
    if len(methods) == 1:
        values = f"{next(iter(methods))}"
    else:
        values = ", ".join(f"{_number(value)} ({', '.join(names)})" for value, names in methods.items())
    return f"{meaning} Unset: {values}.".strip()


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.01 else f"{value:g}"


def table() -> list[tuple[str, str, str, str]]:
    """(key, methods, value, source) of every default, methods with the same one together; for the documentation."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for key, by in DEFAULTS.items():
        for method, setting in by.items():
            rows.setdefault((key, _number(setting.value), setting.source), []).append(method)
    return [(key, ", ".join(methods), value, source) for (key, value, source), methods in rows.items()]


def explain(method: str, chosen: Mapping[str, Any], values: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    """(key, value, source) of every setting that depends on the method.

    chosen: the keys that task.yaml sets; values: all settings (``spec.training.model_dump()``).
    """
    rows = []
    for key, by in DEFAULTS.items():
        source = "task.yaml" if key in chosen else by[method].source  # type: ignore[index]
        rows.append((key, values[key], source))
    return rows
