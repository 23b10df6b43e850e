"""Random schedules of process kills and server faults for hosted trainers: each must buy exactly one job."""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.trainers import train
from finetune_pipeline_tests.openai_jobs_server import OpenAiJobsServer
from finetune_pipeline_tests.service_server import FAULTS, KEY, Request, ServiceServer
from finetune_pipeline_tests.together_server import TogetherServer
from finetune_pipeline_tests.unit.trainers.orders import QUICK, make_order, make_task, tiny_adapter

MOST_RUNS = 12
PATIENCE = {**QUICK, "request_seconds": 0.4, "settle_seconds": 2.5}
GAVE_UP = 3


@dataclass
class Outcome:
    """Result of a schedule. jobs: jobs at the service, in any state; runs: processes started until one succeeded."""

    seed: int
    jobs: int
    runs: int
    kills: int
    faults: list[str] = field(default_factory=list)
    done: bool = False


def processes() -> ForkServerContext:
    """A fork server that has imported what hosted trainers and the data stage need."""
    context = multiprocessing.get_context("forkserver")
    openai = ("openai", "openai.resources.fine_tuning", "openai.resources.files", "openai.resources.models")
    together = ("together", "together.resources.fine_tuning", "together.resources.files", "tarfile")
    kernels = ("finetune_pipeline.data.dedup.kernels", "finetune_pipeline.data.split.alike")
    data = ("finetune_pipeline.pipeline", "finetune_pipeline.steps.run_inputs", *kernels)
    context.set_forkserver_preload([__name__, *openai, *together, *data])
    return context


def server_for(trainer: str) -> tuple[ServiceServer, dict[str, Any]]:
    """A fake server for the trainer, and the trainer's section of the spec."""
    if trainer == "together":
        together = TogetherServer(tiny_adapter())
        return together, {"base_url": together.address, "api_key_env": "PLANTED_KEY"}
    server = OpenAiJobsServer(nebius=True)
    server.adapter = tiny_adapter()
    return server, {"profile": "nebius", "base_url": server.url, "api_key_env": "PLANTED_KEY"}


def run_once(trainer: str, section: dict[str, Any], rows: Path, folder: Path) -> None:
    """Train and end the process: exit code 0 on success, :data:`GAVE_UP` on an outside error, 1 on any other."""
    os.environ["PLANTED_KEY"] = KEY
    log = (folder / "log.txt").open("a")
    with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        try:
            train(make_order(make_task(trainer, {**section, **PATIENCE}), rows, folder))
        except OutsideError as error:
            print(error, flush=True)
            os._exit(GAVE_UP)
        except Exception as error:  # noqa: BLE001 - the parent reads the log
            print(repr(error), flush=True)
            os._exit(1)
    os._exit(0)


def run_schedule(trainer: str, seed: int, rows: Path, folder: Path, context: ForkServerContext) -> Outcome:
    """Start training processes until one succeeds. The seed decides when they are killed and which requests fail."""
    rng = random.Random(seed)
    outcome = Outcome(seed, 0, 0, 0)
    faults_left, kills_left = rng.randint(0, 5), rng.randint(0, 3)
    running: list[Any] = []
    server, section = server_for(trainer)

    def kill() -> None:
        if running and running[-1].pid is not None and running[-1].is_alive():
            os.kill(running[-1].pid, signal.SIGKILL)

    def fault(request: Request) -> str | None:
        nonlocal faults_left, kills_left
        buys = request.method == "POST" and request.path.endswith(("/jobs", "/fine-tunes"))
        if kills_left and rng.random() < (0.4 if buys else 0.06):
            kills_left -= 1
            outcome.kills += 1
            # before the server acts, right after, or a little later
            threading.Timer(rng.choice([0.0, 0.01, 0.1]), kill).start()
        if faults_left and rng.random() < (0.7 if buys else 0.1):
            faults_left -= 1
            chosen = rng.choice(FAULTS)
            outcome.faults.append(f"{chosen}: {request.method} {request.path.rpartition('/')[2]}")
            return chosen
        return None

    server.fault = fault
    (folder / "home").mkdir(parents=True)
    with server:
        while not outcome.done and outcome.runs < MOST_RUNS:
            outcome.runs += 1
            process = context.Process(target=run_once, args=(trainer, section, rows, folder))
            running.append(process)
            process.start()
            process.join()
            outcome.done = process.exitcode == 0
            if process.exitcode == 1:
                break  # a refusal, which network faults must not cause
    outcome.jobs = len(server.jobs)  # type: ignore[attr-defined]
    return outcome
