"""``finetune run TASK``: runs the whole graph, with progress on the terminal and a verdict at the end."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import click
import dagster as dg
import msgspec

# Imported here since MLflow would import it while another thread queries Dagster's database: a half-imported module fails it.
import sqlalchemy.orm  # noqa: F401

from finetune_pipeline.cli.output import DONE, ERROR, REFUSED, apply_environment, as_json, get_task, problem, say, tell
from finetune_pipeline.cli.project import Project, check_files, edited_copies, recall_lines, unfinished, verdict_lines
from finetune_pipeline.cli.time_left import TimeLeft, work_of_steps
from finetune_pipeline.cli.watch import Watcher
from finetune_pipeline.data.raw_files import raw_paths
from finetune_pipeline.data.split.canaries import EditRecall
from finetune_pipeline.data.split.splitting import SplitFacts
from finetune_pipeline.engine.store import Artifact
from finetune_pipeline.evaluation.winner import SOUND
from finetune_pipeline.evaluation.wording import duration
from finetune_pipeline.faults import sqlite_words
from finetune_pipeline.findings import errors
from finetune_pipeline.orchestration.abandoned import close_abandoned_runs, process_start
from finetune_pipeline.orchestration.assets import STAGES, stage_assets
from finetune_pipeline.orchestration.dagster_internals import mirror_apart, shown_on_the_timeline
from finetune_pipeline.orchestration.materialize import NOTES
from finetune_pipeline.orchestration.resources import Store
from finetune_pipeline.pipeline import STEPS, base_model_folder
from finetune_pipeline.progress import VARIABLE, spell
from finetune_pipeline.report.stored import Evaluated
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec import Task
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.tracking.mlflow_store import TrackingError
from finetune_pipeline.trainers import preflight


@click.command()
@click.argument("task")
@click.option("--stage", type=click.Choice(STAGES), help="Run only this stage of the graph.")
@as_json
def run(task: str, stage: str | None) -> int:
    """Run the graph for TASK; finished steps are skipped. Exit code 2: a gate said no.

    Ctrl-C keeps the last checkpoint; running it again continues from there.
    """
    loaded = get_task(task)
    started = time.monotonic()
    result = run_task(loaded, stage)
    took = duration(time.monotonic() - started)
    if result.failed or result.refused:
        _print_failure(result)
    elif stage is not None:
        tell(result.facts(), f"{loaded.name}: stage {stage} done.", *recall_lines(result.edited_copies))
    else:
        headline = f"{loaded.name}: done in {took}."
        if not result.worked:
            headline = f"{loaded.name}: everything is up to date; no work was done ({took})."
        tell(result.facts(), headline, "", *verdict_lines(Project(loaded)))
    return result.code


@dataclass(frozen=True)
class RunResult:
    """What came of a run.

    Attributes:
        stage: The only stage that ran; None: the whole graph.
        run_id: Dagster's run; None if everything was up to date.
        passed: Every gate passed; of a stage: all its steps are done.
        decision: Which model the evaluation chose, or that none may be shipped.
        verdict: The same in a sentence.
        steps: Version and folder of each current artifact.
        refused: Blocking checks that stopped the run.
        failed: Steps that failed.
        edited_copies: Of the stage `data`: as :func:`.project.edited_copies`.
    """

    task: str
    stage: str | None
    run_id: str | None
    passed: bool
    decision: str | None = None
    verdict: str | None = None
    steps: dict[str, StepPlace] = field(default_factory=dict)
    refused: list[Refusal] = field(default_factory=list)
    failed: list[FailedStep] = field(default_factory=list)
    edited_copies: Mapping[str, EditRecall] = field(default_factory=dict)

    @property
    def worked(self) -> bool:
        """Whether anything had to be made."""
        return self.run_id is not None

    @property
    def code(self) -> int:
        """The command's exit code: 1 if a step failed, 2 if a check or gate said no."""
        if self.failed:
            return ERROR
        is_sound = self.passed if self.stage else self.decision in SOUND
        return DONE if is_sound and not self.refused else REFUSED

    def facts(self) -> dict[str, object]:
        """Return the result as plain JSON."""
        edited = msgspec.to_builtins(self.edited_copies)
        return {**asdict(self), "edited_copies": edited, "worked": self.worked}


@dataclass(frozen=True)
class StepPlace:
    """The current artifact of a step."""

    version: str
    folder: str


@dataclass(frozen=True)
class Refusal:
    """A blocking check that said no."""

    asset: str
    check: str
    message: str


@dataclass(frozen=True)
class FailedStep:
    """A step that failed."""

    step: str
    message: str


def run_task(task: Task, stage: str | None = None) -> RunResult:
    """Run the graph for a task, or one stage, with progress on standard output; finished steps are skipped."""
    apply_environment()
    if stage in (None, "training"):
        _require_trainable(task)
    project = Project(task)
    with dg.DagsterInstance.get() as instance:
        if stage is None and not unfinished(project, instance):
            close_abandoned_runs(instance, task.name, project.tracking)
            check_files(project)
            return _verdict(project, None)
        result = execute(task, stage or "all", instance, project)
    if not result.success:
        refused, failed = refusals_and_failures(result)
        refusals, failures = [Refusal(*refusal) for refusal in refused], [FailedStep(*failure) for failure in failed]
        if not refusals and not failures:
            failures = [FailedStep(stage or "all", "the run ended without a result")]
        return RunResult(task.name, stage, result.run_id, False, refused=refusals, failed=failures)
    if stage is None:
        return _verdict(Project(task), result.run_id)
    edited = edited_copies(Project(task)) if stage == "data" else {}
    return RunResult(task.name, stage, result.run_id, True, edited_copies=edited)


def _require_trainable(task: Task) -> None:
    """Raise ClickException with every problem that rules out training; print warnings."""
    findings = preflight(task.spec, task.folder, base_model_folder(task, Store().artifacts()))
    if blocking := errors(findings):
        raise click.ClickException(f"{task.name} cannot be trained like this:\n" + "\n".join(map(str, blocking)))
    problem(*(str(finding) for finding in findings if finding.severity == "warning"))


def execute(task: Task, stage: str, instance: dg.DagsterInstance, project: Project) -> Any:
    """Run the job of a stage, or of `all`, in this process, with its progress on the terminal. Returns Dagster's result.

    Raises KeyboardInterrupt if a signal stopped it.
    """
    from finetune_pipeline.definitions import definitions_of

    folder = read_settings().home / "progress"
    for abandoned_run in close_abandoned_runs(instance, task.name, project.tracking):
        for progress_file in folder.glob(f"*-{abandoned_run}.jsonl"):
            progress_file.unlink(missing_ok=True)
    step_names = [step.name for step in STEPS if not step.asked_for] if stage == "all" else stage_assets(stage)
    estimate = time_left(project, step_names)
    say(f"{task.name}: {estimate.words(time.time())}, by {estimate.source}")
    run_id, status = str(uuid.uuid4()), "CANCELED"
    # with run_id: a process in another container, or before a restart, may have the same number
    path = folder / f"{task.name}-{os.getpid()}-{run_id}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[VARIABLE] = str(path)
    watcher = Watcher(path, len(step_names), say, lambda: pool_wait(instance, run_id), estimate)
    try:
        with (
            watcher,
            _cancelled_by_signals(instance, run_id) as interrupted,
        ):
            project.tracking.prepare()  # before steps run in parallel
            mirror_apart()
            job = definitions_of(task).resolve_job_def(f"{task.name}__{stage}")
            result = job.execute_in_process(
                instance=shown_on_the_timeline(instance),
                run_id=run_id,
                raise_on_error=False,
                tags={
                    "finetune/task": task.name,
                    "finetune/trigger": "command line",
                    "finetune/pid": str(os.getpid()),
                    "finetune/process_started": f"{process_start(os.getpid()):.2f}",
                    "dagster/max_retries": "0",  # whoever started a killed command starts it again
                },
                run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            )
        if interrupted.is_set() and not result.success:
            raise interruption(result)
        status = "SUCCESS" if result.success else "FAILURE"
    finally:
        os.environ.pop(VARIABLE, None)
        path.unlink(missing_ok=True)
        try:
            project.tracking.finish(run_id, status)
        except TrackingError as error:  # not raised, since it would hide the failures of the steps
            problem(f"the run could not be closed in MLflow: {error}")
    return result


def interruption(result: Any) -> KeyboardInterrupt:
    """Return the interrupt that stopped a run, with notes on what its steps leave behind, such as a job that was bought."""
    interrupt = KeyboardInterrupt()
    for event in result.all_node_events:
        failure = event.step_failure_data.user_failure_data if event.is_step_failure else None
        if failure is not None and NOTES in failure.metadata:
            interrupt.add_note(f"{_asset(event.step_key)}: {failure.metadata[NOTES].value}")
    return interrupt


def time_left(project: Project, step_names: Iterable[str]) -> TimeLeft:
    """Estimate the time that a run of these steps takes; those already made take none."""
    spec, artifacts = project.task.spec, project.artifacts
    splits = project.latest("splits")
    raw_bytes = sum(path.stat().st_size for _, path in raw_paths(project.task))
    work = work_of_steps(spec, raw_bytes, splits.read(SplitFacts).counts if splits else None)
    phases = METHODS[spec.training.method].phases(spec.training)
    missing_steps = [name for name in step_names if artifacts[name] is None]
    return TimeLeft(project.task.name, missing_steps, work, read_settings().home, len(phases) == 1)


@contextlib.contextmanager
def _cancelled_by_signals(instance: dg.DagsterInstance, run_id: str) -> Iterator[threading.Event]:
    """Cancel the run in Dagster on SIGINT or SIGTERM while the block runs, so that no further step begins.

    Dagster's own handler raises an exception in the running step. The step may report it as its own failure, or code below
    it may swallow it, and the other steps would continue. Yields an event that is set when a signal arrives.
    """
    interrupted = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def watch() -> None:
        while signal_numbers := reader.recv(1):
            if signal_numbers[0] in (signal.SIGINT, signal.SIGTERM):
                interrupted.set()
                if (run := instance.get_run_by_id(run_id)) is not None and not run.is_finished:
                    instance.report_run_canceling(run)
                return

    # SQLAlchemy logs a traceback if the interrupt arrives while it closes a connection
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    # Python prints one if it arrives in a destructor, where it cannot be raised
    previous_hook, interrupts = sys.unraisablehook, (KeyboardInterrupt, dg.DagsterExecutionInterruptedError)
    sys.unraisablehook = lambda args: None if issubclass(args.exc_type, interrupts) else previous_hook(args)
    thread = threading.Thread(target=watch, daemon=True)
    previous_fd = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield interrupted
    finally:
        sys.unraisablehook = previous_hook
        signal.set_wakeup_fd(previous_fd)
        writer.close()
        thread.join()
        reader.close()


def _verdict(project: Project, run_id: str | None) -> RunResult:
    """Return the result of a full run, with the verdict of its evaluation."""
    report = project.artifacts["evaluation_report"]
    evaluated = report.read(Evaluated) if report else None
    return RunResult(
        project.task.name,
        None,
        run_id,
        bool(evaluated and evaluated.passed),
        evaluated.decision if evaluated else None,
        evaluated.verdict if evaluated else None,
        {name: StepPlace(a.version, str(a.folder)) for name, a in project.artifacts.items() if a},
    )


def _print_failure(result: RunResult) -> None:
    """Print the blocking checks that said no and the steps that failed."""
    problem(
        *(f"stopped by the check {r.check} of {r.asset}: {r.message}" for r in result.refused),
        *(f"{_asset(failure.step)} failed: {failure.message}" for failure in result.failed),
        f"run {result.run_id} of {result.task} did not finish; finished steps are kept, and "
        f"`finetune run {result.task}` continues from there",
    )
    tell(result.facts())


def make_artifact(task: Task, job: str, step: str) -> tuple[Artifact | None, list[str], list[str]]:
    """Return a step's artifact, after running this job if it is not up to date.

    Also returns the messages of blocking checks that stopped the job, and of failed steps.
    """
    project = Project(task)
    if artifact := project.artifacts[step]:
        return artifact, [], []
    with dg.DagsterInstance.get() as instance:
        refused, failed = refusals_and_failures(execute(task, job, instance, project))
    failures = [f"{_asset(step)} failed: {text}" for step, text in failed]
    return Project(task).artifacts[step], [message for _, _, message in refused], failures


def _asset(step: str) -> str:
    """Return the name of the asset that a Dagster step makes."""
    return step.rpartition("__")[2]


def refusals_and_failures(result: Any) -> tuple[list[tuple[str, str, str]], list[tuple[str, str]]]:
    """Return blocking checks that said no (asset, check, message), and steps that failed otherwise (step, message)."""
    refused = [
        (e.asset_key.path[-1], e.check_name, str(e.description))
        for e in result.get_asset_check_evaluations()
        if not e.passed and e.blocking and e.severity is dg.AssetCheckSeverity.ERROR
    ]
    failures = [(e.step_key, _cause(e.step_failure_data)) for e in result.all_node_events if e.is_step_failure]
    return refused, [(step, text) for step, text in failures if "AssetCheckFailed" not in text]


def _cause(data: Any) -> str:
    """Return the innermost message of a step failure, without the traceback."""
    failure = data.user_failure_data
    if failure is not None and failure.description:
        return str(failure.description)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    text = re.sub(r"^(\w+\.)+", "", error.message.strip()) if error is not None else "unknown error"
    return sqlite_words(text, read_settings().home) or text


def pool_wait(instance: dg.DagsterInstance, run_id: str) -> str | None:
    """Describe the pool that `run_id` waits for and the runs that hold its slots or get them next; None if it does not wait."""
    storage = instance.event_log_storage
    if not storage.supports_global_concurrency_limits:
        return None
    for key in sorted(storage.get_concurrency_keys()):
        info = storage.get_concurrency_info(key)
        claimed = {(slot.run_id, slot.step_key) for slot in info.claimed_slots}
        waiting = {(step.run_id, step.step_key) for step in info.pending_steps} - claimed
        if not any(waiting_run == run_id for waiting_run, _ in waiting):
            continue
        assigned = {(s.run_id, s.step_key): s.assigned_timestamp for s in info.pending_steps if s.assigned_timestamp}
        holders = []
        for step in sorted(claimed):
            held_for = f", for {spell(time.time() - assigned[step].timestamp())}" if step in assigned else ""
            holders.append(f"{_pool_step(instance, *step)}{held_for}")
        next_steps = sorted(step for step in assigned.keys() - claimed if step[0] != run_id)
        holders += [f"{_pool_step(instance, *step)} is next" for step in next_steps]
        return f"waiting for pool {key} ({'; '.join(holders) or 'its slot is free, and given at the next request'})"
    return None


def _pool_step(instance: dg.DagsterInstance, run_id: str, step_key: str) -> str:
    """Return the name of a step in a pool, with its task, run and process."""
    run = instance.get_run_by_id(run_id)
    tags = run.tags if run else {}
    task = f" of {tags['finetune/task']}" if tags.get("finetune/task") else ""
    process = f", process {tags['finetune/pid']}" if tags.get("finetune/pid") else ""
    return f"{_asset(step_key)}{task} (run {run_id[:8]}{process})"
