"""Starts one training as several processes with torch's elastic launcher, and makes one end out of theirs.

The processes die with this one, and all of them with any of them. How each ended is told by itself in a file; the cause
among the ends (a refusal, lack of memory, a kill) decides the exit code, not its consequences in the other processes.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from finetune_pipeline.artifacts import read_json, write_json
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.hardware import cpu_has_bfloat16
from finetune_pipeline.models.identity import model_folder, weight_files
from finetune_pipeline.planning import parallel
from finetune_pipeline.settings import read_settings
from finetune_pipeline.trainers.exit_codes import EXIT_CONFIG, EXIT_OOM, EXIT_PREEMPTED, describe
from finetune_pipeline.trainers.supervised import PARENT_VARIABLE
from finetune_pipeline.training.rank_environment import ENDS, STRATEGY, rank_and_number

STOP_SECONDS = 10
"""How long processes may take to end after one of them failed or a signal came, before they are killed."""


def choose(job: dict[str, Any], processes: int) -> tuple[str, str]:
    """(strategy, why) for a train job. Raises FindingsError when it cannot be shared by so many processes."""
    settings = job["settings"]
    sixteen = sum(file.stat().st_size for file in weight_files(model_folder(Path(job["base"]))))
    short = settings["precision"] == "bfloat16" or (
        settings["precision"] == "auto" and (_cards() or cpu_has_bfloat16())
    )
    needed = job.get("memory_bytes") or parallel.least_bytes(sixteen, settings, 2 if short else 4)
    device = min(_cards(), default=psutil.virtual_memory().total // processes)
    chosen, why = parallel.strategy(needed, device, read_settings().parallel)
    if found := parallel.refusals(settings, processes, chosen):
        raise FindingsError(found)
    return chosen, why


def _cards() -> list[int]:
    """Bytes of memory of each visible NVIDIA device; no library is loaded for it."""
    seen = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not seen:
        return []
    told = subprocess.run(
        ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits", "-i", ",".join(seen)],
        capture_output=True,
        text=True,
        check=False,
    )
    return [int(line) << 20 for line in told.stdout.split()] if told.returncode == 0 else []


def launch(job_file: Path, out: Path, processes: int, strategy: str) -> tuple[int, dict[str, Any] | None]:
    """Run the job file in `processes` processes. Returns (exit code, what error.json is to hold; None after a good end).

    A negative code is the signal that killed one of them.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # our own words are below
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="finetune-ranks-") as ends:
        os.environ.update({STRATEGY: strategy, ENDS: ends, PARENT_VARIABLE: str(os.getpid())})
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=Path(ends).name,
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,  # starting again is the business of whoever started us
            shutdown_timeout=STOP_SECONDS,
        )
        stopped: str | None = None
        codes: dict[int, int] = {}
        try:
            elastic_launch(config, sys.executable)("-P", "-m", "finetune_pipeline.training.entry", str(job_file))
        except SignalException as stop:
            stopped = signal.Signals(stop.sigval).name
        except ChildFailedError as failed:
            first = min(f.timestamp for f in failed.failures.values())
            # the launcher itself kills what does not end in time, so only ends close to the first one are causes
            codes = {rank: f.exitcode for rank, f in failed.failures.items() if f.timestamp - first < STOP_SECONDS / 2}
        else:
            return 0, None
        told = {int(p.stem): read_json(p) for p in Path(ends).glob("*.json")}
    return judge(codes, told, stopped)


def judge(
    codes: dict[int, int], told: dict[int, dict[str, Any]], stopped: str | None
) -> tuple[int, dict[str, Any] | None]:
    """One end out of many: (exit code, {kind, message, findings}).

    codes: exit codes of the processes that ended first. told: what processes said themselves {code, kind, message,
    findings, time}. stopped: the signal that the launcher was sent.
    """
    for code in (EXIT_CONFIG, EXIT_OOM):
        for rank, end in sorted(told.items()):
            if end["code"] == code:
                return code, _error(rank, end)
    if stopped is not None:
        message = f"stopped by {stopped}; what is in the work folder is taken up by the next try"
        return EXIT_PREEMPTED, {"kind": "stopped", "message": message, "findings": []}
    for rank, code in sorted(codes.items()):
        if code < 0 and code != -signal.SIGTERM:
            message = f"process {rank} of those training together was {describe(code)}; the others were ended"
            return code, {"kind": "killed", "message": message, "findings": []}
    ends = sorted(told.items(), key=lambda item: (item[1]["code"] != EXIT_PREEMPTED, item[1]["time"]))
    if ends:
        rank, end = ends[0]
        return end["code"], _error(rank, end)
    message = "; ".join(f"process {rank} {describe(code)}" for rank, code in sorted(codes.items()))
    return 1, {"kind": "error", "message": message or "the processes could not be started", "findings": []}


def _error(rank: int, end: dict[str, Any]) -> dict[str, Any]:
    where = f"(process {rank}) " if rank and end["kind"] not in ("findings", "stopped") else ""
    return {"kind": end["kind"], "message": where + end["message"], "findings": end["findings"]}


def write_end(code: int, error: dict[str, Any], now: float) -> None:
    """Say how this one of several processes ended, for the launcher."""
    write_json(Path(os.environ[ENDS]) / f"{rank_and_number()[0]}.json", {**error, "code": code, "time": now})
