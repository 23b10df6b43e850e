"""Dagster resources: the artifact store, and supervised child processes for heavy steps."""

import contextlib
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from finetune_pipeline.engine.files import read_json
from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.jobs import Job, write_job
from finetune_pipeline.progress import tell
from finetune_pipeline.settings import read_settings, shown_gpus
from finetune_pipeline.worker.device_lease import lease, lock_folder
from finetune_pipeline.worker.process import EXIT_CONFIG, EXIT_OOM, EXIT_PREEMPTED, NO_RETRY, describe
from finetune_pipeline.worker.supervised import Stopped, run_supervised

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
_STOPPING = (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


class Compute(dg.ConfigurableResource[Any]):
    """Starts `python -m finetune_pipeline.worker.entry JOB.json` and returns the content of out/result.json."""

    devices: list[str] = Field(
        default=[],
        description="Devices to assign, one per job; empty: FINETUNE_DEVICES, else the visible GPUs, else the CPU.",
    )
    grace_s: float = Field(default=60.0, ge=0, description="Seconds for writing a checkpoint after SIGINT.")
    terminate_s: float = Field(default=10.0, ge=0, description="Seconds after SIGTERM before SIGKILL.")
    watch_run_s: float = Field(default=5.0, ge=0, description="Seconds between checks of the Dagster run's status.")
    lock_folder: str = Field(
        default="",
        description="Folder of device locks; empty: in FINETUNE_HOME for the CPU, in the user's home for GPUs.",
    )

    def launch(self, context: Any, job: Job, *, on_tick: Callable[[], None] = lambda: None) -> dict[str, object]:
        """Run one job and return its facts.

        Args:
            context: Of an asset, which must return a MaterializeResult, or of a check; None outside Dagster.
            job: The child writes result.json to job.out; the job file is in job.work, if given.
            on_tick: Called about once a second while the child runs, and once after it ended.

        Raises:
            dg.Failure: The child failed. Not retried if the run was cancelled, the job was refused, or memory ran out.
            OutsideError: The same, outside Dagster.
        """
        stage = job.stage
        op = getattr(context, "op_execution_context", context)  # contexts of assets and checks wrap it
        out = job.out.absolute()
        out.mkdir(parents=True, exist_ok=True)
        for name in ("result.json", "error.json"):
            (out / name).unlink(missing_ok=True)  # results of an earlier job must not count for this one
        log = op.log.info if op is not None else partial(print, file=sys.stderr, flush=True)
        should_stop = _run_watcher(op, self.watch_run_s)

        def report_wait(message: str) -> None:
            log(message)
            tell(stage, message, waiting=True)

        devices = self.devices or read_settings().devices
        leased = lease(devices, self._locks, holder=_holder_name(op, stage), should_stop=should_stop, log=report_wait)
        try:
            with _job_file(job) as path, _pipes(op) as pipes_env, leased as (device, handle):
                code = run_supervised(
                    # -P: do not import from the working folder
                    [sys.executable, "-P", "-m", read_settings().worker_module, str(path)],
                    child_environment(device, pipes_env),
                    pass_fds=[handle],
                    grace=(self.grace_s, self.terminate_s),
                    should_stop=should_stop,
                    on_tick=on_tick,
                    log=lambda message: log(f"{stage} on {device}: {message}"),
                )
        except Stopped as stop:
            raise _failure(op, f"{stage} was stopped: {stop}") from stop
        except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError) as interrupt:
            if op is not None and (is_stopping(op) or op.op_def.retry_policy is not None):
                # re-raising the interrupt would make the retry policy start a new attempt
                reason = "the run was cancelled" if is_stopping(op) else "the step was interrupted by a signal"
                raise _failure(op, f"{stage} was stopped: {reason}") from interrupt
            raise
        if code != 0:
            raise exit_failure(op, stage, code, device, job)
        return dict(read_json(out / "result.json"))

    def _locks(self, device: str) -> Path:
        return Path(self.lock_folder) if self.lock_folder else lock_folder(device, read_settings().home)


def _holder_name(op: Any, stage: str) -> str:
    """Return the stage with its task and run, which is shown to others that wait for the device."""
    if op is None:
        return stage
    task = op.run.tags.get("finetune/task")
    name = f"{stage} of {task}" if task else stage
    return f"{name} (run {op.run.run_id[:8]})"


def child_environment(device: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the child's environment: ours, variables that must be set before torch is imported, and `extra` (Pipes)."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_PIPES_")}
    path = [str(_PACKAGE_PARENT), *[p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p]]
    env.update(
        OMP_WAIT_POLICY="PASSIVE",
        TOKENIZERS_PARALLELISM="false",
        PYTHONPATH=os.pathsep.join(dict.fromkeys(path)),
        CUDA_VISIBLE_DEVICES=_visible_devices(device),
    )
    if device == "cpu":
        # nothing is compiled there, but bitsandbytes would load torch's compiler: a fifth of a training's imports
        env.setdefault("TORCHDYNAMO_DISABLE", "1")
    return {**env, **extra}


def _visible_devices(device: str) -> str:
    """Return CUDA_VISIBLE_DEVICES for a device. If only some are visible to us, ``cuda:1`` is the second of those."""
    if device == "cpu":
        return ""
    index, gpus = int(device.removeprefix("cuda:")), shown_gpus(os.environ)
    if gpus is None:
        return str(index)
    if index >= len(gpus):
        raise OutsideError(
            f"device {device}: CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']!r} shows only {len(gpus)}; "
            "correct FINETUNE_DEVICES or CUDA_VISIBLE_DEVICES"
        )
    return gpus[index]


@contextlib.contextmanager
def _job_file(job: Job) -> Iterator[Path]:
    """Yield the job as a file, in its work folder or a temporary one."""
    with (
        contextlib.nullcontext(job.work) if job.work else tempfile.TemporaryDirectory(prefix="finetune-job-") as folder
    ):
        path = Path(folder).absolute() / "job.json"
        write_job(path, job)
        yield path


@contextlib.contextmanager
def _pipes(op: Any) -> Iterator[Mapping[str, str]]:
    """Yield the environment with which the child reports to the Dagster run (Dagster Pipes); empty without a run."""
    if op is None:
        yield {}
        return
    pipes_session = dg.open_pipes_session(
        context=op, context_injector=dg.PipesTempFileContextInjector(), message_reader=dg.PipesTempFileMessageReader()
    )
    with contextlib.ExitStack() as stack:
        with warnings.catch_warnings():  # Dagster warns about its own use of a preview feature
            warnings.simplefilter("ignore", dg.PreviewWarning)
            session = stack.enter_context(pipes_session)
        yield session.get_bootstrap_env_vars()


def is_stopping(op: Any) -> bool:
    """Whether the run of this op context was cancelled."""
    run = op.instance.get_run_by_id(op.run.run_id)
    return run is not None and run.status in _STOPPING


def _run_watcher(op: Any, every_s: float) -> Callable[[], str | None]:
    """Return a function that says why the child should stop (its run has ended, or is about to), or None."""
    if op is None:
        return lambda: None
    last_check = time.monotonic()

    def should_stop() -> str | None:
        nonlocal last_check
        if time.monotonic() - last_check < every_s:
            return None
        last_check = time.monotonic()
        run = op.instance.get_run_by_id(op.run.run_id)
        if run is None:
            return "its Dagster run was deleted"
        if run.status in _STOPPING:
            return "the run was cancelled"
        # the run's process may be dead and its pool slot reassigned, so the device must be freed too
        return f"its Dagster run is already {run.status.value}" if run.is_finished else None

    return should_stop


class Store(dg.ConfigurableResource[Any]):
    """Content-addressed artifacts below one folder."""

    root: str = Field(default="", description="Folder of all artifacts; empty: <home>/artifacts (see FINETUNE_HOME).")

    def artifacts(self) -> ArtifactStore:
        """Return the store, with an absolute path."""
        return ArtifactStore(Path(self.root).absolute() if self.root else read_settings().artifacts)


AUDIT_PAGE = "audit.html"
KILLED = -9
"""Exit code after SIGKILL: nearly always from the kernel's out-of-memory killer, so a retry would be killed again."""

_FIXES = {
    EXIT_CONFIG: "correct what is named above and run again; the same job would fail the same way",
    EXIT_OOM: "set training.gradient_checkpointing: true, or lower training.max_tokens; or use a machine with more memory",
    EXIT_PREEMPTED: "run again: it continues from the last checkpoint",
    KILLED: "if nobody killed it, memory ran out: see `dmesg`, lower training.micro_batch_size or free memory; "
    "running again continues from the last checkpoint",
}
_OTHER_FIX = "read the step's output (stderr) for the first error; running again continues from the last checkpoint"


def _failure(context: Any, message: str, metadata: dict[str, Any] | None = None, retry: bool = False) -> Exception:
    """Return a dg.Failure, or without a Dagster context an OutsideError with the same message."""
    return OutsideError(message) if context is None else dg.Failure(message, metadata=metadata, allow_retries=retry)


def exit_failure(context: Any, stage: str, code: int, device: str, job: Job) -> Exception:
    """Return the error for a child with a nonzero exit code."""
    path, lines = job.out / "error.json", [f"{stage} on {device} {describe(code)}"]
    error = read_json(path) if path.is_file() else {"kind": "", "message": ""}
    if message := error["message"].strip():
        lines.append(message)
    if code != EXIT_CONFIG or "fix:" not in message:
        lines.append(f"fix: {_FIXES.get(code, _OTHER_FIX)}")
    metadata: dict[str, object] = {"exit_code": code, "error_kind": error["kind"], "device": device}
    if job.work and (job.work / AUDIT_PAGE).is_file():
        metadata["audit_page"] = dg.MetadataValue.path(job.work / AUDIT_PAGE)
    return _failure(context, "\n".join(lines), metadata, code not in NO_RETRY and code != KILLED)
