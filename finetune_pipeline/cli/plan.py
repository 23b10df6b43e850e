"""``finetune plan TASK``: what training will take, and whether it fits, before anything is trained."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.artifacts import ArtifactStore, read_json, write_json
from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, as_json, emit, get_task, problem, say
from finetune_pipeline.data.dedup.cleaning import clean
from finetune_pipeline.data.examples import Example, examples_of, read_examples
from finetune_pipeline.data.raw_files import collect_raw
from finetune_pipeline.data.review import apply_reviews
from finetune_pipeline.data.validate.validation import validate
from finetune_pipeline.findings import Finding, as_rows, errors
from finetune_pipeline.graph import World
from finetune_pipeline.models.identity import model_kind
from finetune_pipeline.planning.calibrate import calibrate
from finetune_pipeline.planning.devices import spread
from finetune_pipeline.planning.plan import duration, training_plan
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.planning.power import power_bounds
from finetune_pipeline.reports.plan_page import PARTS, quality_said, size_said, time_said
from finetune_pipeline.settings import Settings, read_settings
from finetune_pipeline.spec import Task
from finetune_pipeline.stages.pipeline import PIPELINE
from finetune_pipeline.stages.world import look
from finetune_pipeline.trainers.supervised import run_supervised
from finetune_pipeline.training.preflight import preflight


@dataclass
class Ground:
    """What a plan stands on: the base model's folder, training and validation rows, and where they are from."""

    base: Path
    train: list[Example]
    validation: list[Example]
    test_rows: int
    source: str


@click.command()
@click.argument("task")
@click.option("--calibrate", "measure", is_flag=True, help="Train for four steps first, to know how long it will take.")
@click.option(
    "--memory", type=click.FloatRange(min=0, min_open=True), help="Plan for so many GiB instead of what is free."
)
@click.option(
    "--devices", type=click.IntRange(min=1), help="Also say how to spread it over so many GPUs of --memory each."
)
@as_json
def plan(task: str, measure: bool, memory: float | None, devices: int | None, as_json: bool) -> int:
    """Say what training TASK will take: tokens, steps, memory, time, money; and whether it fits.

    Uses the splits where they are made, else the raw data. Exit code 2: it does not fit; the nearest plan that does is
    told as lines for task.yaml.
    """
    if devices and memory is None:
        raise click.UsageError("--devices wants --memory: the GiB that each of them has")
    loaded, settings = get_task(task), read_settings()
    store = ArtifactStore(settings.artifacts)
    told = preflight(loaded.spec, loaded.folder)
    if errors(told):
        return _refused(loaded, told, as_json)
    world = look(loaded, None, store)
    base = _base(loaded, store, world)
    told = preflight(loaded.spec, loaded.folder, base)
    if errors(told):
        return _refused(loaded, told, as_json)
    ground = _ground(loaded, store, world, base)
    seconds = _calibrate(loaded, ground, settings) if measure else None
    available = int(memory * 2**30) if memory else None
    facts = training_plan(
        loaded.spec,
        ground.base,
        ground.train,
        ground.validation,
        home=settings.home,
        task_folder=loaded.folder,
        available=available,
    )
    facts |= {"task": loaded.name, "source": ground.source, "findings": as_rows(told), "calibration_seconds": seconds}
    facts["power"] = _power(loaded, store, world, ground.test_rows)
    if devices and available:
        facts["spread"] = _spread(loaded, ground, devices, available)
    if as_json:
        emit(facts)
    else:
        _tell(facts)
    return DONE if facts["fits"] else REFUSED


def _refused(task: Task, told: Sequence[Finding], as_json: bool) -> int:
    if as_json:
        emit({"task": task.name, "fits": None, "findings": as_rows(told)})
    else:
        for finding in told:
            problem(str(finding))
    return ERROR


def _launch(job: Any) -> dict[str, Any]:
    from finetune_pipeline.resources.compute import Compute

    return Compute().launch(None, job)


def _launch_without_lease(job: Any) -> dict[str, Any]:
    """Run a job that needs no device: a plan must not wait for a training to end."""
    from finetune_pipeline.resources.compute import child_environment

    out = Path(job["out"])
    write_json(out / "job.json", dict(job))
    command = [sys.executable, "-P", "-m", "finetune_pipeline.training.entry", str(out / "job.json")]
    code = run_supervised(command, child_environment("cpu", {}), None)
    (out / "job.json").unlink()
    if code:
        why = read_json(out / "error.json")["message"] if (out / "error.json").exists() else f"exit code {code}"
        raise click.ClickException(f"{job['stage']} could not be made: {why}")
    return dict(read_json(out / "result.json"))


def _base(task: Task, store: ArtifactStore, world: World) -> Path:
    """The base model's artifact, made where it comes from this machine. Raises ClickException where it has to be fetched."""
    found = PIPELINE.find("base_model", task, world, store)
    if found is None:
        if model_kind(task.spec.base_model, task.spec.base_revision) == "hub":
            raise click.ClickException(
                f"the base model {task.spec.base_model} is not on this machine yet; `finetune run {task.name} --stage "
                "baseline` fetches it"
            )
        found = PIPELINE.run("base_model", task, world, store, _launch_without_lease)
    return found.folder


def _ground(task: Task, store: ArtifactStore, world: World, base: Path) -> Ground:
    splits = PIPELINE.find("splits", task, world, store)
    if splits is not None:
        train, validation = (read_examples(examples_of(splits.folder, s)) for s in ("train", "validation"))
        return Ground(base, train, validation, int(splits.facts["counts"]["test"]), f"splits {splits.version}")
    with tempfile.TemporaryDirectory() as scratch:
        raw, valid, cleaned, reviewed = (Path(scratch) / n for n in ("raw", "validated", "clean", "reviewed"))
        for place in (raw, valid, cleaned, reviewed):
            place.mkdir()
        collect_raw(task, raw)
        validate(raw, task.spec, valid)
        clean(valid, task.spec, cleaned, raw=raw)
        apply_reviews(cleaned, task.folder / "reviews", task.spec, reviewed)
        rows = read_examples(reviewed)
    random.Random(task.spec.split.seed).shuffle(rows)  # noqa: S311 - a shuffle, no secret
    held = round(len(rows) * task.spec.split.validation)
    tested = round(len(rows) * task.spec.split.test)
    kept = len(rows) - held - tested
    return Ground(base, rows[:kept], rows[kept : kept + held], tested, "raw data: as many rows as the splits will have")


def _power(task: Task, store: ArtifactStore, world: World, test_rows: int) -> dict[str, Any]:
    """Whether the test can show the wanted gain: by the measured baseline where there is one, else its bounds."""
    advice = PIPELINE.find("advice", task, world, store)
    return dict(advice.facts["power"]) if advice else power_bounds(task.spec, test_rows)


def _calibrate(task: Task, ground: Ground, settings: Settings) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        return calibrate(
            _launch,
            ground.base,
            ground.train,
            task.spec.training.model_dump(),
            Path(scratch),
            home=settings.home,
            model=task.spec.base_model,
            device=settings.devices[0],
        )


def _spread(task: Task, ground: Ground, devices: int, each: int) -> dict[str, Any]:
    """Single device, DDP or FSDP2, for the largest batch one device gets."""
    settings = task.spec.training.model_dump()
    planner = Planner(ground.base, ground.train, ground.validation, "cuda:0")
    found = planner.batches("train", settings)
    if found is None:
        return {"strategy": None, "sentence": "there are no rows to train on"}
    told = spread(
        planner.shape,
        settings,
        found[0],
        width=compute_width(settings["precision"], planner.device),
        devices=devices,
        bytes_each=each,
    )
    return {"strategy": told.strategy, "per_device_bytes": told.per_device, "sentence": told.sentence}


def _tell(facts: dict[str, Any]) -> None:
    tokens, memory = facts["tokens"], facts["memory_mib"]
    for finding in facts["findings"]:
        say(f"{finding['severity']}: {finding['place']}: {finding['message']}")
    say(f"{facts['task']}: {facts['method']} in {facts['precision']} on {facts['device']}, from {facts['source']}")
    say(
        f"rows      {facts['rows']} from {facts['train_examples']} training examples, {facts['validation_examples']} for "
        f"validation; {facts['over_length']} longer than {facts['limit']} tokens"
    )
    say(
        f"tokens    {tokens['total']:,} ({tokens['mean']} a row; half up to {tokens['p50']}, 99% up to {tokens['p99']}, longest "
        f"{tokens['longest']}); {facts['computed_share']:.0%} of them are computed, shared beginnings once a batch"
    )
    say(f"test      {facts['power']['sentence']}")
    for phase in facts["phases"]:
        say(
            f"steps     {phase['method']}: {phase['steps']} in {phase['epochs']:g} epochs, {phase['evaluations']} validations"
        )
    say(f"trained   {facts['trainable_parameters']:,} of {facts['parameters']:,} parameters")
    parts = ", ".join(f"{name} {memory[name]:,}" for name in PARTS if memory[name])
    say(f"memory    {memory['total']:,} MiB at the peak ({parts}); {facts['available_mib']:,} MiB free")
    seconds = facts["seconds"]
    say(f"time      {time_said(seconds)}, likely {duration(seconds['expected'])}; from {seconds['source']}")
    say("money, in US dollars (planning/prices.yaml, FINETUNE_HOME or the task's folder may hold another list)")
    for price in facts["prices"]:
        low, high = price["dollars_between"]
        hours = f", {price['hours_between'][0]:g} to {price['hours_between'][1]:g} h" if price["hours_between"] else ""
        say(f"          {price['engine']}, {price['model']}: {low:g} to {high:g}{hours} (of {price['date']})")
    say(
        f"\n{'method':8} {'trainable':>13} {'memory':>10}  {'fits':4}  {'time':22} {'result':>9}  measured on the shipped task"
    )
    for row in facts["methods"]:
        fits = "yes" if row["fits"] else "no"
        say(
            f"{row['method']:8} {row['trainable_parameters']:>13,} {row['memory_mib']:>6,} MiB  {fits:4}  "
            f"{time_said(row['seconds']):22} {size_said(row['result_bytes']):>9}  {quality_said(row['measured'])}"
        )
    say()
    if spread_told := facts.get("spread"):
        say(f"spread over GPUs: {spread_told['sentence']}")
    if facts["fits"]:
        say("fits")
        return
    say("does not fit")
    near = facts["nearest"]
    for rung in near["tried"]:
        change = ", ".join(f"{k}: {v}" for k, v in rung["change"].items()) or "as it is"
        say(f"  {rung['mib']:>8,} MiB with a tenth to spare  {'fits' if rung['fits'] else 'no  '}  {change}")
    if not near["fits"]:
        say("nothing that task.yaml can say makes it fit: use a smaller base_model, or more memory")
        return
    say(f"\nthe nearest plan that fits ({near['memory_mib']['needed']:,} MiB), for task.yaml:\n{near['yaml']}")
    for reason in near["reasons"]:
        say(f"  {reason}")
