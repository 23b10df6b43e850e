"""Sensors and the schedule of a task: they start runs, monitor the champion, and close runs in MLflow."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import takewhile

import dagster as dg

from finetune_pipeline.engine.checks import CheckResult
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.orchestration.abandoned import LAUNCHED, close_abandoned_runs
from finetune_pipeline.orchestration.assets import LIVE, Prefix, check_result, key_of
from finetune_pipeline.orchestration.release import champion_quality, nothing_new
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.orchestration.rollout import watch_rollout
from finetune_pipeline.production.log_merging import row_times
from finetune_pipeline.production.status import production_status
from finetune_pipeline.production.used_rows import waiting_rows
from finetune_pipeline.spec.model import Task
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.trace_logs import ingest_traces
from finetune_pipeline.tracking.tracking import Tracking


def new_logs_sensor(task: Task) -> dg.SensorDefinition:
    """Return the sensor that requests a run when enough usable new log rows have come in, or the oldest has waited too long."""

    @dg.sensor(
        name=f"{task.name}__new_logs",
        job_name=f"{task.name}__all",
        minimum_interval_seconds=30,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Starts a run of {task.name} when `{task.spec.logs.path}/` contains at least "
        f"{task.spec.logs.min_new_rows} usable new rows, or one that has waited "
        f"{task.spec.retraining.longest_wait_days:g} days.",
    )
    def new_logs(context: dg.SensorEvaluationContext, finetune_store: Store) -> dg.RunRequest | dg.SkipReason:
        if running := run_in_progress(context.instance, task):
            return dg.SkipReason(running)
        try:
            ingest_traces(task, finetune_store.artifacts(), Tracking())
        except FindingsError as error:
            return dg.SkipReason(f"{task.name} cannot be trained: {error}")
        waiting = waiting_rows(task, finetune_store.artifacts())
        if not waiting.ready:
            return dg.SkipReason(waiting.sentence)
        return request_full_run(context.instance, task, waiting.digest, "new_logs", waiting.sentence)

    return new_logs


def drift_sensor(task: Task, jobs: "Sequence[dg.UnresolvedAssetJobDefinition]") -> dg.SensorDefinition:
    """Return the sensor that checks production after every window of rows, and acts on drift according to `drift.action`.

    A run for known drift is requested before another check: rows may come in so fast that a check is always due.

    Args:
        jobs: The task's jobs.
    """

    @dg.sensor(
        name=f"{task.name}__drift",
        jobs=[job for job in jobs if job.name in (f"{task.name}__all", f"{task.name}__production")],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Checks production after every {task.spec.drift.window_rows} rows, and acts on drift "
        f"(drift.action: {task.spec.drift.action}).",
    )
    def drift(
        context: dg.SensorEvaluationContext, finetune_store: Store, finetune_tracking: Tracking
    ) -> dg.RunRequest | dg.SkipReason:
        if running := run_in_progress(context.instance, task):
            return dg.SkipReason(running)
        artifacts = finetune_store.artifacts()
        serving = registry.champion(finetune_tracking, task.name)
        status = production_status(task, artifacts, row_times(task, artifacts), serving)
        sentence = status.sentence
        if status.retrain and task.spec.drift.action == "start":
            newest_run = full_run_since(context.instance, task, status.reported_at)
            if newest_run is None:
                job = f"{task.name}__all"
                request = request_full_run(context.instance, task, status.report, "drift", sentence, job)
                if isinstance(request, dg.RunRequest) or not status.look:
                    return request
            else:
                sentence = f"{sentence} Run {newest_run.run_id[:8]} has started since."
        if status.look:
            return dg.RunRequest(
                run_key=f"look-{status.look_key}",
                job_name=f"{task.name}__production",
                tags={"finetune/trigger": "drift", "finetune/why": status.look},
            )
        if status.drifted and task.spec.drift.action == "propose":
            return dg.SkipReason(f"{sentence} Proposed: `finetune run {task.name}`.")
        return dg.SkipReason(sentence)

    return drift


def mlflow_closers(task: Task | None = None) -> list[dg.SensorDefinition]:
    """Return sensors that give runs started from the UI the same final status in MLflow as in Dagster.

    task: Only for its runs, and with its name, since every component of a project brings its own sensors.
    """

    def closing_sensor(status: dg.DagsterRunStatus) -> dg.SensorDefinition:
        @dg.run_status_sensor(
            run_status=status,
            name=f"{f'{task.name}__' if task else ''}mlflow_closes_{status.value.lower()}",
            minimum_interval_seconds=15,
            default_status=dg.DefaultSensorStatus.RUNNING,
            description=f"Ends the MLflow run of a Dagster run that ended in {status.value}.",
        )
        def close(context: dg.RunStatusSensorContext, finetune_tracking: Tracking) -> None:
            if task is None or _is_of_task(context.dagster_run, task):
                finetune_tracking.finish(context.dagster_run.run_id, status.value)

        return close

    ended = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    return [closing_sensor(status) for status in ended]


def _is_of_task(run: dg.DagsterRun, task: Task) -> bool:
    """Whether a run makes assets of the task: by its job, or chosen in the UI."""
    chosen = {key.path[-2] for key in run.asset_selection or () if len(key.path) > 1}
    return run.tags.get("finetune/task") == task.name or task.name in chosen


_MAX_RUNS = 20
"""Only so many of the newest full runs are considered."""


def run_in_progress(instance: dg.DagsterInstance, task: Task) -> str | None:
    """Return a sentence that names an unfinished run of the task, or None."""
    # else the run of a killed command would count as unfinished forever, and no other would be started
    close_abandoned_runs(instance, task.name, Tracking())
    unfinished = [dg.DagsterRunStatus.QUEUED, *LAUNCHED]
    running = instance.get_runs(dg.RunsFilter(tags={"finetune/task": task.name}, statuses=unfinished), limit=1)
    return f"run {running[0].run_id[:8]} of this task is in progress; checking again after it" if running else None


def failed_runs(instance: dg.DagsterInstance, task: Task) -> list[dg.DagsterRun]:
    """Return the full runs that failed since the last success, newest first. Cancelled runs count as neither."""
    since_success = takewhile(lambda run: run.status != dg.DagsterRunStatus.SUCCESS, _full_runs(instance, task))
    return [run for run in since_success if run.status == dg.DagsterRunStatus.FAILURE]


def full_run_since(instance: dg.DagsterInstance, task: Task, moment: float) -> dg.DagsterRun | None:
    """Return the newest full run that anyone requested after a time (seconds since 1970) and that did not fail."""
    runs = _full_runs(instance, task, datetime.fromtimestamp(moment, UTC))
    return next((run for run in runs if run.status != dg.DagsterRunStatus.FAILURE), None)


def _full_runs(instance: dg.DagsterInstance, task: Task, after: datetime | None = None) -> Sequence[dg.DagsterRun]:
    full_runs = dg.RunsFilter(tags={"finetune/task": task.name, "finetune/stage": "all"}, created_after=after)
    return instance.get_runs(full_runs, limit=_MAX_RUNS)


def request_full_run(
    instance: dg.DagsterInstance, task: Task, key: str, trigger: str, why: str, job_name: str | None = None
) -> dg.RunRequest | dg.SkipReason:
    """Request a run of the full graph, or say why not.

    A failed run is requested again for the same batch. After `retraining.attempts` failures a person must act; the next
    successful run resets the count.

    Args:
        key: Identifies the batch, so that it is requested only once.
        trigger: What requests the run, for its tags and run key.
    """
    if running := run_in_progress(instance, task):
        return dg.SkipReason(running)
    failed, attempts = failed_runs(instance, task), task.spec.retraining.attempts
    if len(failed) >= attempts:
        return dg.SkipReason(
            f"{why}; but the last {len(failed)} runs failed (the newest is {failed[0].run_id[:8]}): a person must act. "
            f"Fix the cause and start `finetune run {task.name}` manually; after a successful run this continues automatically"
        )
    attempt_text = f", attempt {len(failed) + 1} of {attempts} after {len(failed)} failed" if failed else ""
    attempt_key = failed[0].run_id[:8] if failed else "first"  # changes with every failure
    return dg.RunRequest(
        run_key=f"{trigger}-{key}-{attempt_key}",
        job_name=job_name,
        tags={"finetune/trigger": trigger, "finetune/why": f"{why}{attempt_text}"},
    )


def retraining_schedule(task: Task) -> dg.ScheduleDefinition:
    """Return the schedule that runs the full graph on the spec's cron, and skips if nothing changed since the last candidate."""

    @dg.schedule(
        name=f"{task.name}__retraining",
        job_name=f"{task.name}__all",
        cron_schedule=task.spec.logs.retrain_cron,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Retrains {task.name} on `{task.spec.logs.retrain_cron}`; skips when nothing changed.",
    )
    def retraining(
        context: dg.ScheduleEvaluationContext, finetune_store: Store, finetune_tracking: Tracking
    ) -> dg.RunRequest | dg.SkipReason:
        try:
            unchanged = nothing_new(task, finetune_store.artifacts(), finetune_tracking)
        except FindingsError as error:
            return dg.SkipReason(f"{task.name} cannot be trained: {error}")
        if unchanged:
            return dg.SkipReason(unchanged)
        moment = context.scheduled_execution_time.strftime("%Y-%m-%dT%H:%M")
        why = "data, spec or base changed since the last candidate"
        return request_full_run(context.instance, task, moment, "schedule", why)

    return retraining


def champion_sensor(
    task: Task, jobs: "Sequence[dg.UnresolvedAssetJobDefinition]", prefix: Prefix = ()
) -> dg.SensorDefinition:
    """Return the sensor that raises an alarm if the champion is worse than the previous one, and rolls back if allowed. It also
    raises one if the champion's promise is broken, and with `drift.action: start` requests one run for that.

    The asset `model_version` shows the alarm as an observation, and as its check `champion_serves_well`, which passes again
    when another version serves. With the key `rollout`, the sensor takes the steps of a candidate's rollout, too.
    """

    effect = "reports, and leaves the rollback to people"
    if task.spec.retraining.rollback:
        effect = "rolls back automatically"

    @dg.sensor(
        name=f"{task.name}__champion",
        jobs=[job for job in jobs if job.name == f"{task.name}__all"],
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Compares people's feedback on the answers of {task.name}'s champion with that on the previous "
        f"champion; {effect}. Watches the promised error, and takes the steps of a rollout.",
    )
    def champion(
        context: dg.SensorEvaluationContext, finetune_store: Store, finetune_tracking: Tracking
    ) -> dg.SensorResult | dg.SkipReason:
        sentence, events = _rollout_step(task, prefix, finetune_store, finetune_tracking)
        result = watch(context, finetune_store, finetune_tracking)
        if not sentence:
            return result
        if isinstance(result, dg.SkipReason):
            if not events:
                return dg.SkipReason(f"{sentence}. {result.skip_message}")
            result = dg.SensorResult(skip_reason=result, cursor=context.cursor)
        reason = (
            result.skip_reason.skip_message if isinstance(result.skip_reason, dg.SkipReason) else result.skip_reason
        )
        skip_reason = None if result.run_requests else dg.SkipReason(f"{sentence}. {reason}" if reason else sentence)
        return result._replace(skip_reason=skip_reason, asset_events=[*events, *result.asset_events])

    def watch(
        context: dg.SensorEvaluationContext, finetune_store: Store, finetune_tracking: Tracking
    ) -> dg.SensorResult | dg.SkipReason:
        state = champion_quality(task, finetune_store.artifacts(), finetune_tracking)
        serving, quality = state.serving, state.result
        if quality.passed:
            if not context.cursor:
                return dg.SkipReason(quality.message)
            return dg.SensorResult(
                skip_reason=quality.message, asset_events=[_champion_check(task, prefix, quality)], cursor=""
            )
        action = f"roll back with `finetune rollback {task.name}`"
        if not state.is_worse:
            action = (
                f"let a person decide about every answer until `finetune run {task.name}` has made a better version"
            )
        elif task.spec.retraining.rollback:
            try:
                version = registry.rollback(finetune_tracking, task.name, f"champion alarm: {quality.message}", serving)
                action = f"rolled back to version {version}"
            except ValueError as error:  # somebody may have rolled it back, or blocked the previous version, since
                action = f"it is not rolled back: {error}"
        message = f"{quality.message}; {action}"
        context.log.error(message)
        request: dg.RunRequest | dg.SkipReason | None = None
        if state.promise_broken and not state.is_worse and task.spec.drift.action == "start":
            # one run for each champion: its key stays
            why, job = f"the promised error is broken: {quality.message}", f"{task.name}__all"
            request = request_full_run(context.instance, task, str(serving), "promise", why, job)
        requests = [request] if isinstance(request, dg.RunRequest) else []
        reason = None if requests else f"ALARM: {message}"
        if context.cursor == str(serving):  # the asset's history already shows the alarm
            return dg.SensorResult(run_requests=requests, cursor=str(serving)) if requests else dg.SkipReason(reason)
        observation = dg.AssetObservation(key_of(task, LIVE[0], prefix), description=f"champion alarm: {message}")
        events = (observation, _champion_check(task, prefix, replace(quality, message=message)))
        return dg.SensorResult(run_requests=requests, skip_reason=reason, asset_events=events, cursor=str(serving))

    return champion


def _rollout_step(
    task: Task, prefix: Prefix, store: Store, tracking: Tracking
) -> tuple[str, list[dg.AssetObservation]]:
    """Take the next step of a rollout. Returns what the rollout's state is, and the events of a step."""
    try:
        state = watch_rollout(task, store.artifacts(), tracking, act=True)
    except (
        ValueError,
        OutsideError,
        FindingsError,
    ) as error:  # somebody has moved the champion since, or changed a tag
        return f"the rollout is not judged: {error}", []
    if state is None:
        return "", []
    sentence = f"rollout: {state.sentence}"
    page = {"page": dg.MetadataValue.path(state.page)}
    observation = dg.AssetObservation(key_of(task, LIVE[0], prefix), description=sentence, metadata=page)
    return sentence, [observation] if state.done else []


def _champion_check(task: Task, prefix: Prefix, quality: CheckResult) -> dg.AssetCheckEvaluation:
    """Return the check's result for the champion as an event, which needs no run."""
    step, check = LIVE
    result = check_result(check, quality, task.spec)
    return dg.AssetCheckEvaluation(
        asset_key=key_of(task, step, prefix),
        check_name=check.name,
        passed=result.passed,
        description=result.description,
        severity=result.severity,
        metadata=result.metadata,
    )
