"""Builds Dagster assets from the table of steps, one per step and task, with their checks; and the jobs that make them."""

import re

import dagster as dg

from finetune_pipeline.engine.checks import Check, CheckResult
from finetune_pipeline.engine.files import digest_json
from finetune_pipeline.engine.step import Step
from finetune_pipeline.escaping import printable
from finetune_pipeline.faults import JobError, outside_words
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.orchestration.materialize import as_metadata, materialize
from finetune_pipeline.orchestration.release import champion_quality
from finetune_pipeline.orchestration.resources import Compute, Store
from finetune_pipeline.pipeline import BASELINE, DATA, GROUPS, LOGS, PRODUCTION, STEPS, TRAINING
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.model import Task, TaskSpec
from finetune_pipeline.steps.evaluation_checks import champion_serves_well
from finetune_pipeline.tracking.tracking import Tracking

GPU_POOL = "gpu"
SHOWN = 20
"""Maximum problems shown of a broken task; a malicious file has thousands."""
RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS)
LIVE = "model_version", champion_serves_well
"""The asset that shows the check of the model in service, and this check."""


Prefix = tuple[str, ...]
"""What the asset keys of a task begin with in somebody's own Dagster project; empty in this one."""


def key_of(task: Task, step: str, prefix: Prefix = ()) -> dg.AssetKey:
    return dg.AssetKey([*prefix, task.name, step])


def task_assets(task: Task, prefix: Prefix = ()) -> list[dg.AssetsDefinition]:
    """Return every asset of the task, each with its checks."""
    return [asset_of(step, task, prefix) for step in STEPS]


def asset_of(step: Step, task: Task, prefix: Prefix = ()) -> dg.AssetsDefinition:
    """Return the asset of one row of the table for one task, key ``[*prefix, task, step]``."""
    spec, key = task.spec, key_of(task, step.name, prefix)
    checks = [check for check in step.checks if not check.live and check.asked(spec)]

    @dg.asset(
        key=key,
        deps=[key_of(task, name, prefix) for name in (*step.inputs, *step.follows)],
        description=step.description,
        group_name=f"{task.name}__{step.group}",
        code_version=step.code_version,
        kinds=set(step.kinds),
        owners=[spec.owner],
        pool=GPU_POOL if step.heavy else None,
        retry_policy=RETRY if step.heavy else None,
        check_specs=[
            dg.AssetCheckSpec(c.name, asset=key, description=c.description, blocking=c.blocks(spec)) for c in checks
        ],
    )
    def asset(
        context: dg.AssetExecutionContext,
        finetune_store: Store,
        finetune_tracking: Tracking,
        finetune_compute: Compute,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster takes no other annotation here
        try:
            artifact, metadata = materialize(
                context, task, step, finetune_store.artifacts(), finetune_tracking, finetune_compute
            )
        except dg.Failure:
            raise  # its message is a sentence already
        except (FindingsError, JobError) as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        except Exception as error:
            message = outside_words(error, read_settings().home)
            if message is None:
                raise
            raise dg.Failure(printable(message)) from error
        return dg.MaterializeResult(
            asset_key=key,
            metadata=metadata,
            data_version=dg.DataVersion(artifact.version),
            check_results=[check_result(c, c.ask(artifact, spec), spec) for c in checks],
        )

    return asset


def check_result(check: Check, result: CheckResult, spec: TaskSpec) -> dg.AssetCheckResult:
    """Convert a check's result for Dagster."""
    is_warning = result.warns or check.action(spec) == "warn"
    return dg.AssetCheckResult(
        check_name=check.name,
        passed=result.passed,
        description=result.message,
        severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
        metadata=as_metadata(dict(result.figures)),
    )


def task_checks(task: Task, prefix: Prefix = ()) -> list[dg.AssetChecksDefinition]:
    """Return the checks that are not evaluated where their asset is made: only whether the champion serves well.

    It is evaluated in every full run and in the stage `production`; the sensor `<task>__champion` evaluates it, too, when the
    answer changes.
    """
    step, check = LIVE

    @dg.asset_check(asset=key_of(task, step, prefix), name=check.name, description=check.description, blocking=False)
    def live(finetune_store: Store, finetune_tracking: Tracking) -> dg.AssetCheckResult:
        quality = champion_quality(task, finetune_store.artifacts(), finetune_tracking).result
        return check_result(check, quality, task.spec)

    return [live]


def broken_task(name: str, findings: list[Finding], prefix: Prefix = ()) -> dg.AssetsDefinition:
    """Return a placeholder in the UI for a task with an invalid spec, with the reason; other tasks are not affected."""
    problems = "\n\n".join(str(f) for f in findings[:SHOWN])
    if len(findings) > SHOWN:
        problems += f"\n\n… and {len(findings) - SHOWN} more"
    safe_name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    key = name if safe_name == name else f"{safe_name}_{digest_json(name)[:8]}"  # Dagster allows no other characters

    @dg.asset(
        key=dg.AssetKey([*prefix, key, "broken_task_spec"]),
        group_name="broken",
        kinds={"yaml"},
        description=f"`{name}/task.yaml` cannot be used:\n\n{problems}",
    )
    def broken() -> None:
        raise dg.Failure(f"{name}/task.yaml cannot be used:\n{problems}", allow_retries=False)

    return broken


STAGES = tuple(group for group in GROUPS if group != LOGS)
"""Groups of steps that have a job of their own; the logs are read by the jobs that need them."""
TUNED_RUNGS = "tuned_rungs"
LADDER, TUNED_LADDER = "climb_ladder", "climb_tuned_ladder"
"""The jobs that make the ladder's steps and their inputs: without and with the tuned model."""


def stage_assets(stage: str) -> list[str]:
    """Return the names of the assets that a job makes. stage: one of STAGES, LADDER or TUNED_LADDER.

    A stage's job makes the steps of its group, and the logs if these read them; for `data` also the data quality report, and
    the base model with whose tokenizer that counts. The ladder's jobs make every step up to the baseline, with the tuned model
    up to training and `tuned_rungs`: also those that no other job makes (Step.asked_for).
    """
    if stage in (LADDER, TUNED_LADDER):
        groups, extra = ((TRAINING,), [TUNED_RUNGS]) if stage == TUNED_LADDER else ((), [])
        return [*(step.name for step in STEPS if step.group in (LOGS, DATA, BASELINE, *groups)), *extra]
    names = [step.name for step in STEPS if step.group == stage and not step.asked_for]
    logs = [step.name for step in STEPS if step.group == LOGS]
    read_steps = {name for step in STEPS if step.name in names for name in step.inputs}
    names = [*(name for name in logs if name in read_steps), *names]
    return [*names, "base_model", "data_quality"] if stage == DATA else names


def _selection(task: Task, stage: str, prefix: Prefix) -> dg.AssetSelection:
    """Return what the job of a stage selects: its assets with their checks; for production also the check of the champion."""
    assets = dg.AssetSelection.assets(*(key_of(task, name, prefix) for name in stage_assets(stage)))
    if stage != PRODUCTION:
        return assets
    return assets | dg.AssetSelection.checks(dg.AssetCheckKey(key_of(task, LIVE[0], prefix), LIVE[1].name))


def task_jobs(task: Task, prefix: Prefix = ()) -> "list[dg.UnresolvedAssetJobDefinition]":
    """Return the jobs ``<task>__all`` and one ``<task>__<stage>`` per stage. Checks belong to the steps of their
    assets, except that of the champion."""
    asked_for = [key_of(task, step.name, prefix) for step in STEPS if step.asked_for]
    whole_task = dg.AssetSelection.key_prefixes([*prefix, task.name]) - dg.AssetSelection.assets(*asked_for)
    jobs = {
        "all": "From raw files to a registered model, including the production check.",
        **{stage: f"Runs only the stage `{stage}`." for stage in STAGES},
        LADDER: "The measurements before training on all rows, and the answer.",
        TUNED_LADDER: "The ladder, with the tuned model on the same rows.",
    }
    return [
        dg.define_asset_job(
            f"{task.name}__{name}",
            selection=whole_task if name == "all" else _selection(task, name, prefix),
            description=description,
            tags={"finetune/task": task.name, "finetune/stage": name},
        )
        for name, description in jobs.items()
    ]
