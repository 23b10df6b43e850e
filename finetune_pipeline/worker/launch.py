"""Runs one training in several processes: chooses a strategy, starts torch's elastic launcher, and returns one exit code.

``torchrun`` and ``accelerate launch`` run the same launcher; each process then trains through TRL and Accelerate. All
processes end if this process or one of them ends.
"""

import contextlib
import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.planning.memory import gpu_memory, weight_bytes
from finetune_pipeline.planning.planner import compute_width
from finetune_pipeline.planning.shape import model_shape
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.training.processes import STRATEGY, is_first, uneven_batches
from finetune_pipeline.worker.process import EXIT_PREEMPTED, NO_RETRY, PARENT_VARIABLE, describe

STOP_SECONDS = 10
"""Seconds for the processes to end after a failure or a signal, before they are killed."""
ROOM = 0.8
"""Share of a device's memory available to training; the rest is for fragmentation and the driver."""


def choose(job: Mapping[str, Any], processes: int) -> tuple[str, str]:
    """Choose ``ddp`` or ``fsdp2`` for a train job. Returns (strategy, reason).

    ``ddp`` (distributed data parallel): every device has a copy of the model and takes its part of each batch. ``fsdp2``
    (fully sharded data parallel): weights, gradients and optimiser states are split over the devices and fetched layer by
    layer (Zhao et al. 2023, arXiv:2304.11277). Raises FindingsError if this number of processes cannot share the job.
    """
    gpu_bytes, setting = _gpu_bytes(), read_settings().parallel
    device_bytes = min(gpu_bytes, default=psutil.virtual_memory().total // processes)
    needed = job.get("memory_bytes") or _minimum_bytes(job, bool(gpu_bytes))
    size = f"{needed / 2**30:.1f} GiB of {device_bytes / 2**30:.1f} GiB a device"
    if setting != "auto":
        strategy, reason = setting, f"as set in FINETUNE_PARALLEL={setting}"
    elif not gpu_bytes:
        strategy, reason = "ddp", "the CPU shares whole models only"
    elif needed <= ROOM * device_bytes:
        strategy, reason = "ddp", f"it fits on one device ({size})"
    else:
        strategy, reason = "fsdp2", f"it does not fit on one device ({size})"
    if findings := refusals(job["settings"], processes, strategy, bool(gpu_bytes)):
        raise FindingsError(findings)
    return strategy, reason


def refusals(settings: Mapping[str, Any], processes: int, strategy: str, on_gpus: bool) -> list[Finding]:
    """Return findings against training with this many processes, these settings and this strategy."""
    findings = []
    if uneven := uneven_batches(settings["batch_size"], processes, "devices"):
        message, sizes = uneven
        fix = f"{sizes}, or give FINETUNE_DEVICES another number of devices"
        findings.append(Finding("training.batch_over_devices", "error", "task.yaml: training.batch_size", message, fix))
    if strategy == "fsdp2" and METHODS[settings["method"]].holds == "four_bit":
        message = "4-bit weights cannot be split over devices: their quantization constants belong to complete tensors"
        fix = "set FINETUNE_PARALLEL=ddp if the base fits on each device in four bits, or set training.method: lora, "
        fix += "which is sharded in 16 bits"
        findings.append(Finding("training.four_bit_sharded", "error", "task.yaml: training.method", message, fix))
    if strategy == "fsdp2" and not on_gpus:
        message = "a model can be split over GPUs only"
        fix = "set FINETUNE_PARALLEL=ddp, or name GPUs in FINETUNE_DEVICES"
        findings.append(Finding("training.cpu_sharded", "error", "FINETUNE_PARALLEL", message, fix))
    return findings


def _minimum_bytes(job: Mapping[str, Any], on_gpus: bool) -> int:
    """Return the minimum bytes of weights, gradients and optimiser states, without activations."""
    settings, shape = job["settings"], model_shape(model_folder(Path(job["base"])))
    method, width = METHODS[settings["method"]], compute_width(settings["precision"], "cuda" if on_gpus else "cpu")
    return weight_bytes(shape, method, width) + 12 * method.trainable(settings, shape)


def _gpu_bytes() -> list[int]:
    """Return the memory of each visible NVIDIA device in bytes."""
    with contextlib.suppress(OutsideError):
        return gpu_memory("total") if os.environ.get("CUDA_VISIBLE_DEVICES") else []
    return []


def launch(job_file: Path, out: Path, processes: int, strategy: str) -> int:
    """Run the job file in `processes` processes. Returns 0, or the exit code of the first failure (negative: the signal that
    killed a process); out/error.json then describes it."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # error.json reports failures
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.update({STRATEGY: strategy, PARENT_VARIABLE: str(os.getpid())})
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,  # whoever started this process decides about restarts
        shutdown_timeout=STOP_SECONDS,
    )
    codes: dict[int, int] = {}
    stopped: str | None = None
    try:
        elastic_launch(config, sys.executable)("-P", "-m", read_settings().worker_module, str(job_file))
        return 0
    except SignalException as stop:
        stopped = signal.Signals(stop.sigval).name
    except ChildFailedError as failed:
        first_failure = min(f.timestamp for f in failed.failures.values())
        # the launcher kills processes that do not end in time: only failures close to the first one are causes
        codes = {
            rank: f.exitcode for rank, f in failed.failures.items() if f.timestamp - first_failure < STOP_SECONDS / 2
        }
    for name in ("result.json", "measured.json"):
        (out / name).unlink(missing_ok=True)
    return _outcome(out, codes, stopped)


def _outcome(out: Path, codes: Mapping[int, int], stopped: str | None) -> int:
    """Return the exit code of the cause: a refusal or lack of memory, a stop, a kill, or an error, in this order.
    Processes that lose a peer fail too; their errors must not hide a kill."""
    error = read_json(out / "error.json") if (out / "error.json").is_file() else None
    if error and error["code"] in NO_RETRY:
        return int(error["code"])
    if stopped:
        message = f"stopped by {stopped}; the next attempt resumes from the work folder"
        write_error(out, EXIT_PREEMPTED, "stopped", message)
        return EXIT_PREEMPTED
    for rank, code in sorted(codes.items()):
        if code < 0 and code != -signal.SIGTERM:
            message = f"training process {rank} was {describe(code)}; the other processes were stopped"
            write_error(out, code, "killed", message)
            return code
    if error is None:
        message = "; ".join(f"process {rank} {describe(code)}" for rank, code in sorted(codes.items()))
        write_error(out, 1, "error", message or "the processes could not be started")
    return int(error["code"]) if error else 1


def write_error(out: Path, code: int, kind: str, message: str) -> None:
    """Write out/error.json, which describes the error that ended a job."""
    write_json(out / "error.json", {"code": code, "kind": kind, "message": message})


def write_worker_error(out: Path, code: int, kind: str, message: str) -> None:
    """Write out/error.json for one of several processes. A refusal or lack of memory replaces any other error; otherwise the
    first error stays, since it causes the others."""
    path = out / "error.json"
    if code in NO_RETRY or not path.is_file():
        prefix = f"(process {os.environ['RANK']}) " if kind in ("memory", "error") and not is_first() else ""
        write_error(out, code, kind, prefix + message)
