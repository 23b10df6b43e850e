"""Process entry: ``python -m finetune_pipeline.worker.entry JOB.json`` runs one job of :mod:`finetune_pipeline.jobs`.

Writes out/result.json (facts), out/measured.json, or out/error.json {code, kind, message}; exit codes in
:mod:`finetune_pipeline.worker.process`. Works the same from a shell and under Dagster Pipes.
"""

import signal

if __name__ == "__main__":  # an interrupt during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import contextlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import msgspec

from finetune_pipeline.data.examples import SealedError
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.faults import JobError, is_out_of_memory, outside_words
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.jobs import (
    AbilityJob,
    BaseJob,
    BaselineJob,
    Job,
    LatencyJob,
    MergeJob,
    PredictJob,
    RefineJob,
    TrainJob,
    read_job,
)
from finetune_pipeline.planning.search import nearest_smaller
from finetune_pipeline.reporting import listen, say
from finetune_pipeline.training.processes import is_first
from finetune_pipeline.worker import process
from finetune_pipeline.worker.process import EXIT_CONFIG, EXIT_OOM, EXIT_PREEMPTED

ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads must not spin: other processes share the cores
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables set in every process that runs jobs."""
DEFAULTS = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic products on CUDA
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",  # progress bars would fill the log
}
"""Variables set unless the environment has them."""


def prepare_environment(job: Job) -> None:
    """Set variables that must be set before torch and transformers are imported."""
    process.collect_garbage_rarely()
    process.spin_if_alone()
    from finetune_pipeline.models.identity import model_kind

    variables = {**{name: os.environ.get(name, value) for name, value in DEFAULTS.items()}, **ENVIRONMENT}
    if not isinstance(job, BaseJob) or model_kind(job.base_model, job.revision) != "hub":
        variables["HF_HUB_OFFLINE"] = "1"
    late_names = [name for name, value in variables.items() if os.environ.get(name) != value]
    if "torch" in sys.modules and late_names:
        raise RuntimeError(f"torch was imported before {', '.join(late_names)} was set")
    os.environ.update(variables)


def do_job(job: Job, on_saved: Callable[[], None] | None = None) -> None:
    """Run the job in this process, and write its result.json and measured.json.
    on_saved: called after a training has saved a checkpoint."""
    began = time.monotonic()
    prepare_environment(job)
    facts, measured = run(job, on_saved)
    if is_first():
        write_json(job.out / "measured.json", {**_measured(began), **measured})
        write_json(job.out / "result.json", msgspec.to_builtins(facts))


def run(job: Job, on_saved: Callable[[], None] | None = None) -> tuple[object, dict[str, object]]:
    """Run the job. Returns (facts, measured). facts: a struct, or a dictionary in JSON's types."""
    _silence_libraries()
    match job:
        case BaseJob():
            from finetune_pipeline.models.base import prepare_base

            return prepare_base(job.base_model, job.revision, job.out, job.chat_template), {}
        case TrainJob():
            from finetune_pipeline.report.training_pages import audit_html
            from finetune_pipeline.training.sft import train

            return train(job, audit_html, on_saved)
        case RefineJob():
            from finetune_pipeline.training.refine import refine

            return refine(job, on_saved)
        case MergeJob():
            from finetune_pipeline.models.merging import merge_and_compare

            return merge_and_compare(job), {}
        case BaselineJob():
            from finetune_pipeline.evaluation.predict import baseline

            return baseline(job)
        case PredictJob():
            from finetune_pipeline.evaluation.predict import predict

            return predict(job)
        case LatencyJob():
            from finetune_pipeline.evaluation.predict import latency

            return latency(job)
        case AbilityJob():
            from finetune_pipeline.evaluation.ability.scoring import ability

            return ability(job)
    raise TypeError(f"no job of this process: {job!r}")


def _silence_libraries() -> None:
    """Silence progress bars and warnings of libraries, such as bitsandbytes' search for a kernel on the hub."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*past_key_values.*", category=FutureWarning)  # PEFT's prefix tuning
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


@contextlib.contextmanager
def _pipes() -> Iterator[None]:
    """Send messages also to Dagster if it started this process."""
    if not os.environ.get("DAGSTER_PIPES_CONTEXT"):
        yield
        return
    from dagster_pipes import open_dagster_pipes

    with open_dagster_pipes() as context:
        listen(context.log.info)
        yield


def _measured(began: float) -> dict[str, object]:
    """Return the time and peak memory of this process so far, and what they depend on."""
    import torch

    usage = resource.getrusage(resource.RUSAGE_SELF)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    gpu_bytes = max((int(torch.cuda.max_memory_allocated(i)) for i in devices), default=None)
    return {
        "seconds": round(time.monotonic() - began, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_memory_mib": round(_peak_memory_kib() / 1024, 1),
        **({} if gpu_bytes is None else {"peak_gpu_memory_mib": round(gpu_bytes / 2**20, 1)}),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _peak_memory_kib() -> int:
    """Return the peak resident size of this process. (On Linux, ru_maxrss is never below that of the parent process.)"""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def classify_error(error: BaseException, job: Job) -> tuple[int, str, str]:
    """Return (exit code, kind, message for people) for the error that ended the job. Prints the traceback of a bug."""
    if isinstance(error, process.Stop):
        return EXIT_PREEMPTED, "stopped", f"stopped by {error}; the next attempt resumes from the work folder"
    if isinstance(error, FindingsError):
        return EXIT_CONFIG, "findings", str(error)
    if isinstance(error, (JobError, SealedError)):
        return EXIT_CONFIG, "job", str(error)
    if is_out_of_memory(error):
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        fix = nearest_smaller(job.settings if isinstance(job, TrainJob) else None)
        return EXIT_OOM, "memory", f"out of memory: {reason}\nfix: {fix}"
    if fault := outside_words(error, str(job.out)):
        return 1, "error", fault
    traceback.print_exception(error)
    return 1, "error", f"{type(error).__name__}: {error}"


def _report_failure(error: BaseException, job: Job, out: Path) -> int:
    """Write error.json for the error that ended the job. Returns the exit code."""
    code, kind, message = classify_error(error, job)
    say(f"{job.stage}: {message}")  # first: on a full disk nothing can be written
    with contextlib.suppress(OSError):
        write_json(out / "error.json", {"code": code, "kind": kind, "message": message})
    return code


def main(arguments: list[str]) -> int:
    """Run the job file named by the only argument. Returns the exit code."""
    process.die_with_parent()
    process.stop_on_signals()
    if len(arguments) != 1:
        print("usage: python -m finetune_pipeline.worker.entry JOB.json", file=sys.stderr)
        return EXIT_CONFIG
    try:
        job = read_job(Path(arguments[0]))
        out = job.out
        out.mkdir(parents=True, exist_ok=True)
    except (OSError, msgspec.DecodeError) as error:
        print(f"{arguments[0]} is not a readable job file: {error}", file=sys.stderr)
        return EXIT_CONFIG
    for name in ("result.json", "measured.json", "error.json"):
        (out / name).unlink(missing_ok=True)
    with _pipes():
        try:
            do_job(job)
        except BaseException as error:  # noqa: BLE001 - whatever ends the job is reported, then the process ends
            return _report_failure(error, job, out)
    return 0


def end_with_job(arguments: list[str]) -> NoReturn:
    """Run :func:`main` and end this process with its code."""
    code = 1
    try:
        code = main(arguments)
    except process.Stop:  # before the job had begun
        code = EXIT_PREEMPTED
    except BaseException:  # noqa: BLE001 - the exit below would swallow it
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        process.sweep_group()
        os._exit(code)  # no interpreter shutdown: threads of libraries must not delay the exit


if __name__ == "__main__":
    end_with_job(sys.argv[1:])
