"""The training plan: what will happen, what it takes, whether that fits, and the nearest plan that does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.data.examples import Example
from finetune_pipeline.planning.available import available_memory
from finetune_pipeline.planning.measured_methods import measured_methods
from finetune_pipeline.planning.memory import Memory
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.planning.prices import Price, estimate_prices, load_prices
from finetune_pipeline.planning.search import as_yaml, changes, nearest, reasons
from finetune_pipeline.planning.shape import trainable_parameters
from finetune_pipeline.planning.throughput import Rate, Time, estimate_time, read_rates
from finetune_pipeline.planning.tokens import TokenCounter, token_statistics
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.method_defaults import DEFAULTS, METHODS
from finetune_pipeline.spec.model import TaskSpec, TrainingSpec

MARGIN = 1.1
"""A plan fits when its formula's peak, and a tenth more, is free: the formula is right to 15%, mostly to 5%."""


def training_plan(
    spec: TaskSpec,
    base: Path,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path | None = None,
    *,
    home: Path | None = None,
    task_folder: Path | None = None,
    model: str | None = None,
    available: int | None = None,
) -> dict[str, Any]:
    """Plan for training on `train` with the base model folder `base`. Writes out/plan.json where `out` is given.

    home: where rates of this machine are kept (throughput.json) and prices.yaml may lie, as it may in task_folder; model:
    the name rates are kept under (default: spec.base_model). available: bytes to plan for (default: what is free now).

    Facts: method, precision, device, train_examples, validation_examples, rows, tokens (statistics of the training split,
    with training.augment its perturbed copies too), computed_share (of its tokens, after packing), over_length, limit,
    steps_per_epoch, steps, evaluations, phases [...], trainable_parameters, memory_mib (parts and total), available_mib,
    fits, nearest {fits, yaml, change, memory_mib, reasons, tried}, seconds {low, expected, high, source}, prices [...],
    methods [a row each], sentence.
    """
    settings = spec.training.model_dump()
    device = read_settings().devices[0]
    planner = Planner(base, train, validation, device)
    memory = planner.memory(settings)
    available = available_memory(device) if available is None else available
    phases = planner.phases(settings)
    tokens = token_statistics(TokenCounter(planner.folder), planner.epoch_examples(settings))
    tokens.pop("lengths")
    rates = read_rates(home) if home else []
    times = _times(planner, settings, rates, model or spec.base_model)
    rows = planner.rows("train", settings)
    fits = memory.needed * MARGIN <= available
    facts: dict[str, Any] = {
        "method": settings["method"],
        "precision": "bfloat16" if compute_width(settings["precision"], planner.device) == 2 else "float32",
        "device": device,
        "train_examples": len(train),
        "validation_examples": len(validation),
        "rows": len(rows.rows),
        "tokens": tokens,
        "computed_share": round(planner.tokens_computed(settings), 3),
        "over_length": rows.over,
        "limit": rows.limit,
        "refused_rows": len(rows.findings),
        "steps_per_epoch": phases[0].steps.per_epoch,
        "steps": sum(p.steps.steps for p in phases),
        "evaluations": sum(p.steps.evaluations for p in phases),
        "phases": [
            {
                "method": p.settings["method"],
                "epochs": p.epochs,
                "steps": p.steps.steps,
                "evaluations": p.steps.evaluations,
                "flops": p.flops,
            }
            for p in phases
        ],
        "trainable_parameters": trainable_parameters(planner.shape, settings),
        "parameters": planner.shape.parameters,
        "memory_mib": in_mib(memory),
        "available_mib": round(available / 2**20),
        "fits": fits,
        "nearest": None if fits else nearest_plan(planner, settings, available),
        "seconds": times,
        "prices": _money(planner, settings, tokens["total"], times, home, task_folder),
        "methods": method_table(planner, spec, rates, available, model or spec.base_model),
    }
    facts["sentence"] = _sentence(facts)
    if out is not None:
        write_json(out / "plan.json", facts)
    return facts


def in_mib(memory: Memory) -> dict[str, int]:
    """The parts and the total, in MiB."""
    parts = {k: round(v / 2**20) for k, v in memory.parts().items()}
    return {**parts, "needed": round(memory.needed / 2**20), "total": round(memory.total / 2**20)}


def nearest_plan(planner: Planner, settings: Mapping[str, Any], available: int) -> dict[str, Any]:
    """The first settings on the ladder of costs that fit: {fits, yaml, change, memory_mib, reasons, tried}."""
    found, tried = nearest(settings, lambda s: int(planner.memory(s).needed * MARGIN), available)
    rungs = [{**t, "bytes": None, "mib": round(t["bytes"] / 2**20)} for t in tried]
    for rung in rungs:
        rung.pop("bytes")
    if found is None:
        return {"fits": False, "yaml": "", "change": {}, "memory_mib": None, "reasons": [], "tried": rungs}
    change = changes(settings, found)
    return {
        "fits": True,
        "yaml": as_yaml(change),
        "change": change,
        "memory_mib": in_mib(planner.memory(found)),
        "reasons": reasons(change),
        "tried": rungs,
    }


def _times(planner: Planner, settings: Mapping[str, Any], rates: Sequence[Rate], model: str) -> dict[str, Any]:
    precision = "bfloat16" if compute_width(settings["precision"], planner.device) == 2 else "float32"
    found: list[Time] = [
        estimate_time(p.flops, rates, model=model, method=p.settings["method"], precision=precision)
        for p in planner.phases(settings)
    ]
    return {
        "low": round(sum(t.low for t in found), 1),
        "expected": round(sum(t.expected for t in found), 1),
        "high": round(sum(t.high for t in found), 1),
        "source": "; ".join(dict.fromkeys(t.source for t in found)),
    }


def _money(
    planner: Planner,
    settings: Mapping[str, Any],
    tokens: int,
    times: Mapping[str, Any],
    home: Path | None,
    task_folder: Path | None,
) -> list[dict[str, Any]]:
    epochs = settings["epochs"] + (settings["unquantized_epochs"] if settings["method"] == "qlora" else 0)
    prices: list[Price] = load_prices(home=home, task_folder=task_folder)
    return estimate_prices(tokens * epochs, prices, parameters=planner.shape.parameters, seconds=times)


def method_settings(spec: TaskSpec, method: str) -> dict[str, Any]:
    """The task's settings with another method: what task.yaml sets stays, what a method decides is its own."""
    if method == spec.training.method:
        return spec.training.model_dump()
    told = spec.training.model_dump(exclude_unset=True)
    own = [key for key in DEFAULTS if key not in ("batch_size", "micro_batch_size")]
    told = {k: v for k, v in told.items() if k not in (*own, "method")}
    if method == "prefix":
        told.pop("gradient_checkpointing", None)
    return TrainingSpec.model_validate({**told, "method": method}).model_dump()


def method_table(
    planner: Planner, spec: TaskSpec, rates: Sequence[Rate], available: int, model: str
) -> list[dict[str, Any]]:
    """Each method for this model and these data: trainable_parameters, memory_mib, fits, seconds, result_bytes, and what
    was measured once on the shipped task (measured: test accuracy with its interval, or None)."""
    table = []
    for method in METHODS:
        settings = method_settings(spec, method)
        memory = planner.memory(settings)
        trainable = trainable_parameters(planner.shape, settings)
        table.append(
            {
                "method": method,
                "chosen": method == spec.training.method,
                "trainable_parameters": trainable,
                "memory_mib": round(memory.total / 2**20),
                "fits": memory.needed * MARGIN <= available,
                "seconds": _times(planner, settings, rates, model),
                "result_bytes": planner.shape.stored_bytes if method == "full" else 4 * trainable,
                "measured": measured_methods().get(method),
            }
        )
    return table


def _sentence(facts: Mapping[str, Any]) -> str:
    needed, free = facts["memory_mib"]["needed"] / 1024, facts["available_mib"] / 1024
    told = (
        f"{facts['steps']} steps over {facts['rows']} rows of {facts['tokens']['mean']} tokens; about {needed:.1f} GiB at the "
        f"peak, {free:.1f} GiB free; {duration(facts['seconds']['low'])} to {duration(facts['seconds']['high'])}"
    )
    if facts["fits"]:
        return told + "."
    near = facts["nearest"]
    if not near["fits"]:
        return told + ": it does not fit, and nothing that task.yaml can say makes it fit. Use a smaller base_model."
    wanted = ", ".join(f"training.{k}: {v}" for k, v in near["change"].items())
    return (
        told
        + f": it does not fit. The nearest plan that does: {wanted} ({near['memory_mib']['needed'] / 1024:.1f} GiB)."
    )


def duration(seconds: float) -> str:
    """A time for people, in two figures at most."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.2g} {name}" if seconds < 100 * size else f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
