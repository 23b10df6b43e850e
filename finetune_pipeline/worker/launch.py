"""One training in several processes: which strategy, torch's elastic launcher, and one exit code for all of them.

The launcher is the one ``torchrun`` and ``accelerate launch`` run; each process then trains through TRL and Accelerate.
The processes die with this one, and all of them with any of them.
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
from finetune_pipeline.training.processes import STRATEGY, is_first
from finetune_pipeline.worker.process import EXIT_PREEMPTED, NO_RETRY, PARENT_VARIABLE, describe

STOP_SECONDS = 10
"""How long processes may take to end after one of them failed or a signal came, before they are killed."""
ROOM = 0.8
"""Share of a device's memory available to training; the rest is for fragmentation and the driver."""


def choose(job: Mapping[str, Any], processes: int) -> tuple[str, str]:
    """(``ddp`` or ``fsdp2``, why) for a train job.

    ``ddp`` (distributed data parallel): every device holds the whole model and takes its part of each batch. ``fsdp2``
    (fully sharded data parallel): weights, gradients and optimiser states are split over the devices and fetched layer by
    layer (Zhao et al. 2023, arXiv:2304.11277). Raises FindingsError where the job cannot be shared by so many processes.
    """
    cards, wanted = _cards(), read_settings().parallel
    device = min(cards, default=psutil.virtual_memory().total // processes)
    needed = job.get("memory_bytes") or _least_bytes(job, bool(cards))
    size = f"{needed / 2**30:.1f} GiB of {device / 2**30:.1f} GiB a device"
    if wanted != "auto":
        chosen, why = wanted, f"as FINETUNE_PARALLEL={wanted} says"
    elif needed <= ROOM * device or not cards:
        chosen, why = "ddp", f"it fits on one device ({size})" if cards else "the CPU shares whole models only"
    else:
        chosen, why = "fsdp2", f"it does not fit on one device ({size})"
    if findings := refusals(job["settings"], processes, chosen, bool(cards)):
        raise FindingsError(findings)
    return chosen, why


def refusals(settings: Mapping[str, Any], processes: int, chosen: str, on_gpus: bool) -> list[Finding]:
    """Findings against training with this many processes, these settings and the strategy `chosen`."""
    findings = []
    if (batch := settings["batch_size"]) % processes:
        near = batch // processes * processes or processes
        message = f"batches of {batch} rows cannot be split over {processes} devices"
        fix = (
            f"set training.batch_size: {near} or {near + processes}, or give FINETUNE_DEVICES another number of devices"
        )
        findings.append(Finding("training.batch_over_devices", "error", "task.yaml: training.batch_size", message, fix))
    if chosen == "fsdp2" and METHODS[settings["method"]].holds == "four_bit":
        message = (
            "4-bit weights are not split over devices: the constants they are read back with belong to whole tensors"
        )
        fix = "set FINETUNE_PARALLEL=ddp if the base fits on each device in four bits, or set training.method: lora, "
        fix += "which is sharded in 16 bits"
        findings.append(Finding("training.four_bit_sharded", "error", "task.yaml: training.method", message, fix))
    if chosen == "fsdp2" and not on_gpus:
        message = "a model is split over GPUs only"
        fix = "set FINETUNE_PARALLEL=ddp, or name GPUs in FINETUNE_DEVICES"
        findings.append(Finding("training.cpu_sharded", "error", "FINETUNE_PARALLEL", message, fix))
    return findings


def _least_bytes(job: Mapping[str, Any], on_gpus: bool) -> int:
    """Minimum bytes of weights, gradients and optimiser states, without activations."""
    settings, shape = job["settings"], model_shape(model_folder(Path(job["base"])))
    method, width = METHODS[settings["method"]], compute_width(settings["precision"], "cuda" if on_gpus else "cpu")
    return weight_bytes(shape, method, width) + 12 * method.trainable(settings, shape)


def _cards() -> list[int]:
    """Bytes of memory of each visible NVIDIA device."""
    with contextlib.suppress(OutsideError):
        return gpu_memory("total") if os.environ.get("CUDA_VISIBLE_DEVICES") else []
    return []


def launch(job_file: Path, out: Path, processes: int, chosen: str) -> int:
    """Run the job file in `processes` processes. Returns 0, or the exit code of the cause (negative: the signal that killed one
    of them); out/error.json then says what happened."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # error.json says it
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.update({STRATEGY: chosen, PARENT_VARIABLE: str(os.getpid())})
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,  # starting again is the business of whoever started us
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
        first = min(f.timestamp for f in failed.failures.values())
        # the launcher itself kills what does not end in time, so only ends close to the first one are causes
        codes = {rank: f.exitcode for rank, f in failed.failures.items() if f.timestamp - first < STOP_SECONDS / 2}
    for name in ("result.json", "measured.json"):
        (out / name).unlink(missing_ok=True)
    return _outcome(out, codes, stopped)


def _outcome(out: Path, codes: Mapping[int, int], stopped: str | None) -> int:
    """The exit code of the cause: a refusal or lack of memory, a stop, a kill, or an error, in this order.
    A process that loses its peer fails too; what it says of that does not hide a kill."""
    error = read_json(out / "error.json") if (out / "error.json").is_file() else None
    if error and error["code"] in NO_RETRY:
        return int(error["code"])
    if stopped:
        message = f"stopped by {stopped}; the next attempt resumes from the work folder"
        write_error(out, EXIT_PREEMPTED, "stopped", message)
        return EXIT_PREEMPTED
    for rank, code in sorted(codes.items()):
        if code < 0 and code != -signal.SIGTERM:
            message = f"process {rank} of those training together was {describe(code)}; the others were ended"
            write_error(out, code, "killed", message)
            return code
    if error is None:
        message = "; ".join(f"process {rank} {describe(code)}" for rank, code in sorted(codes.items()))
        write_error(out, 1, "error", message or "the processes could not be started")
    return int(error["code"]) if error else 1


def write_error(out: Path, code: int, kind: str, message: str, findings: list[dict[str, Any]] | None = None) -> None:
    write_json(out / "error.json", {"code": code, "kind": kind, "message": message, "findings": findings or []})


def write_worker_error(out: Path, code: int, kind: str, message: str, findings: list[dict[str, Any]]) -> None:
    """Write out/error.json for one of several processes, unless another has said more: a refusal or lack of memory
    outweighs everything, and the first error what it causes in the others."""
    path = out / "error.json"
    if code in NO_RETRY or not path.is_file():
        where = f"(process {os.environ['RANK']}) " if kind in ("memory", "error") and not is_first() else ""
        write_error(out, code, kind, where + message, findings)
