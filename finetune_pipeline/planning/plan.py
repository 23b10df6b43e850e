"""Makes the training plan: required resources, whether they suffice, and the nearest plan that fits."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.preferences.rows import Preference
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.planning.answering import StepMemory, answering_steps
from finetune_pipeline.planning.costs import TrainingCost, method_settings, training_costs
from finetune_pipeline.planning.memory import available_memory
from finetune_pipeline.planning.planner import Phase, Planner
from finetune_pipeline.planning.prices import load_prices
from finetune_pipeline.planning.search import Change, changes, ladder, reasons
from finetune_pipeline.planning.second_stage import second_stage_step
from finetune_pipeline.planning.tokens import TokenCounter, spread
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.methods import METHODS, methods_for
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.audit import Spread

MARGIN = 1.1
"""A plan fits if its estimated peak plus 10% is free. The estimate may be 25% off: training halves passes that do not fit."""


@dataclass(frozen=True)
class NearestPlan:
    """The cheapest change of settings that makes the training fit, if there is one. yaml: the same as lines of task.yaml;
    reasons: the cost of each change."""

    fits: bool
    yaml: str
    change: Change
    memory_mib: dict[str, int] | None
    reasons: list[str]


@dataclass(frozen=True)
class MethodRow:
    """One method for this model and data."""

    method: str
    chosen: bool
    trainable_parameters: int
    memory_mib: int
    fits: bool
    result_bytes: int


class PlannedTokens(Spread, frozen=True, kw_only=True):
    """Tokens of one epoch, and their spread over the rows."""

    total: int
    mean: float


class TrainingPlan(Facts, frozen=True, kw_only=True):
    """The plan of a training: facts of training_plan.

    Attributes:
        rows: Rows of one epoch.
        computed_share: Share of these tokens that packing leaves to compute.
        over_length: Examples longer than `limit` tokens.
        memory_mib: Peak of the training (Memory.in_mib); others: that of the steps that run inference, and of the second stage;
            fits: whether all fit.
        serving: The price list's lines for serving (prices.PriceList.served).
        plan_markdown: Its page.
    """

    method: str
    precision: str
    device: str
    train_examples: int
    validation_examples: int
    rows: int
    tokens: PlannedTokens
    computed_share: float
    over_length: int
    limit: int
    steps_per_epoch: int
    steps: int
    evaluations: int
    phases: list[Phase]
    trainable_parameters: int
    parameters: int
    memory_mib: dict[str, int]
    available_mib: int
    fits: bool
    nearest: NearestPlan | None
    others: list[StepMemory]
    prices: list[TrainingCost]
    serving: list[dict[str, Any]]
    methods: list[MethodRow]
    sentence: str
    plan_markdown: str = ""


def training_plan(
    spec: TaskSpec,
    base: Path,
    train: Sequence[Example],
    validation: Sequence[Example],
    out: Path | None = None,
    *,
    home: Path | None = None,
    task_folder: Path | None = None,
    available: int | None = None,
    counter: TokenCounter | None = None,
    preferences: Sequence[Preference] = (),
) -> TrainingPlan:
    """Plan a training on `train` with the base model in the folder `base`; write plan.json into `out`.
    home: folder of prices.yaml, unless `task_folder` has one. available: bytes; None: those free now. counter: see Planner.
    preferences: those that the second stage will train on, if there is one.
    Raises FindingsError for rows that cannot be encoded."""
    settings = spec.training
    device = read_settings().devices[0]
    planner = Planner(base, train, validation, device, counter)
    available = available_memory(device) if available is None else available
    memory, phases = planner.memory(settings), planner.phases(settings)
    rows = planner.rows("train", settings)
    if rows.findings:
        raise FindingsError(rows.findings)
    tokens = PlannedTokens.of(
        {"total": rows.tokens, **spread(np.array([len(row["ids"]) for row in rows.rows] or [0])).to_json()}
    )
    training_fits = memory.total * MARGIN <= available
    other_steps = answering_steps(spec, planner, validation, device, available, MARGIN)
    second_stage = second_stage_step(planner, settings, preferences, available, MARGIN)
    other_steps += [second_stage] if second_stage else []
    prices, today = load_prices(home=home, task_folder=task_folder), datetime.datetime.now(datetime.UTC).date()
    plan = TrainingPlan(
        method=settings.method,
        precision=planner.precision(settings),
        device=device,
        train_examples=len(train),
        validation_examples=len(validation),
        rows=len(rows.rows),
        tokens=tokens,
        computed_share=round(planner.computed_share(settings), 3),
        over_length=rows.over,
        limit=rows.limit,
        steps_per_epoch=phases[0].steps_per_epoch,
        steps=sum(p.steps for p in phases),
        evaluations=sum(p.evaluations for p in phases),
        phases=phases,
        trainable_parameters=METHODS[settings.method].trainable(settings, planner.shape),
        parameters=planner.shape.parameters,
        memory_mib=memory.in_mib(),
        available_mib=round(available / 2**20),
        fits=training_fits and all(step.fits for step in other_steps),
        nearest=None if training_fits else nearest_plan(planner, settings, available),
        others=other_steps,
        prices=training_costs(spec, prices, rows.tokens, planner.shape.parameters, today, [settings.method]),
        serving=prices.for_model(planner.shape.parameters).served(),
        methods=[method_row(planner, spec, name, available) for name in methods_for(spec.output.kind)],
        sentence="",
    )
    plan = replace(plan, sentence=_sentence(plan))
    if out is not None:
        write_json(out / "plan.json", plan.to_json())
    return plan


def nearest_plan(planner: Planner, settings: TrainingSettings, available: int) -> NearestPlan:
    """Return the first settings on the ladder of costs that fit into `available` bytes."""
    fitting = next((s for s in ladder(settings) if planner.memory(s).total * MARGIN <= available), None)
    if fitting is None:
        return NearestPlan(False, "", {}, None, [])
    change = changes(settings, fitting)
    lines = str(yaml.safe_dump({"training": change}, sort_keys=False)).rstrip()
    return NearestPlan(True, lines, change, planner.memory(fitting).in_mib(), reasons(change))


def method_row(planner: Planner, spec: TaskSpec, method: str, available: int) -> MethodRow:
    """Plan the training with another method."""
    settings = method_settings(spec, method)
    memory, trainable = planner.memory(settings), METHODS[method].trainable(settings, planner.shape)
    return MethodRow(
        method=method,
        chosen=method == spec.training.method,
        trainable_parameters=trainable,
        memory_mib=round(memory.total / 2**20),
        fits=memory.total * MARGIN <= available,
        result_bytes=4 * trainable if METHODS[method].kind.adapter else planner.shape.stored_bytes,
    )


def _sentence(plan: TrainingPlan) -> str:
    nearest, needed = plan.nearest, plan.memory_mib["total"] / 1024
    sentence = (
        f"{plan.steps} steps over {plan.rows} rows of {plan.tokens.mean} tokens; about {needed:.1f} GiB at the peak, "
    )
    sentence += f"{plan.available_mib / 1024:.1f} GiB free"
    if nearest and nearest.memory_mib is None:
        sentence += ": it does not fit, and no setting of task.yaml makes it fit. Use a smaller base_model"
    elif nearest and nearest.memory_mib:
        change = ", ".join(f"training.{k}: {v}" for k, v in nearest.change.items())
        change += f" ({nearest.memory_mib['total'] / 1024:.1f} GiB)"
        sentence += f": it does not fit. The nearest plan that does: {change}"
    return ". ".join([sentence, *(step.sentence for step in plan.others if not step.fits)]) + "."
