"""Random schedules of kills and failing servers for hosted trainers: however they fall, one job is bought."""

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
from finetune_pipeline_tests.service_server import FAULTS, KEY, Request, ServiceServer, serving
from finetune_pipeline_tests.together_server import TogetherServer
from finetune_pipeline_tests.unit.trainers.orders import QUICK, make_order, make_task, tiny_adapter

MOST_RUNS = 12
PATIENCE = {**QUICK, "request_seconds": 0.4, "settle_seconds": 2.5}
GAVE_UP = 3


@dataclass
class Outcome:
    """What came of a schedule. jobs: those the service has, however they ended; runs: processes until one succeeded."""

    seed: int
    jobs: int
    runs: int
    kills: int
    faults: list[str] = field(default_factory=list)
    done: bool = False


def processes() -> ForkServerContext:
    """Processes that start with everything imported: what trains at a service, and the data stage."""
    context = multiprocessing.get_context("forkserver")
    of_openai = ("openai", "openai.resources.fine_tuning", "openai.resources.files", "openai.resources.models")
    of_together = ("together", "together.resources.fine_tuning", "together.resources.files", "tarfile")
    kernels = ("finetune_pipeline.data.dedup.kernels", "finetune_pipeline.data.split.alike_kernels")
    of_data = ("finetune_pipeline.pipeline", "finetune_pipeline.steps.run_inputs", *kernels)
    context.set_forkserver_preload([__name__, *of_openai, *of_together, *of_data])
    return context


def server_for(trainer: str) -> tuple[ServiceServer, dict[str, Any]]:
    """A protocol server, and the section of the spec that leads to it."""
    if trainer == "together":
        together = TogetherServer(tiny_adapter())
        return together, {"base_url": together.address, "api_key_env": "PLANTED_KEY"}
    server = OpenAiJobsServer(nebius=True)
    server.adapter = tiny_adapter()
    return server, {"profile": "nebius", "base_url": server.url, "api_key_env": "PLANTED_KEY"}


def run_once(trainer: str, section: dict[str, Any], rows: Path, place: Path) -> None:
    """One process that trains; exit code 0 once the result is there."""
    os.environ["PLANTED_KEY"] = KEY
    log = (place / "log.txt").open("a")
    with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
        try:
            train(make_order(make_task(trainer, {**section, **PATIENCE}), rows, place))
        except OutsideError as error:
            print(error, flush=True)
            os._exit(GAVE_UP)
        except Exception as error:  # noqa: BLE001 - the parent reads the log
            print(repr(error), flush=True)
            os._exit(1)
    os._exit(0)


def run_schedule(trainer: str, seed: int, rows: Path, place: Path, context: ForkServerContext) -> Outcome:
    """Let processes train until one has the result, while they are killed and the server fails, as the seed says."""
    dice = random.Random(seed)
    outcome = Outcome(seed, 0, 0, 0)
    faults_left, kills_left = dice.randint(0, 5), dice.randint(0, 3)
    running: list[Any] = []
    server, section = server_for(trainer)

    def kill() -> None:
        if running and running[-1].pid is not None and running[-1].is_alive():
            os.kill(running[-1].pid, signal.SIGKILL)

    def fault(request: Request) -> str | None:
        nonlocal faults_left, kills_left
        buys = request.method == "POST" and request.path.endswith(("/jobs", "/fine-tunes"))
        if kills_left and dice.random() < (0.4 if buys else 0.06):
            kills_left -= 1
            outcome.kills += 1
            # before the server has done anything, at once after it, or a little later
            threading.Timer(dice.choice([0.0, 0.01, 0.1]), kill).start()
        if faults_left and dice.random() < (0.7 if buys else 0.1):
            faults_left -= 1
            chosen = dice.choice(FAULTS)
            outcome.faults.append(f"{chosen}: {request.method} {request.path.rpartition('/')[2]}")
            return chosen
        return None

    server.fault = fault
    (place / "home").mkdir(parents=True)
    with serving(server):
        while not outcome.done and outcome.runs < MOST_RUNS:
            outcome.runs += 1
            process = context.Process(target=run_once, args=(trainer, section, rows, place))
            running.append(process)
            process.start()
            process.join()
            outcome.done = process.exitcode == 0
            if process.exitcode == 1:
                break  # refused: no fault of the network may come to that
    outcome.jobs = len(server.jobs)  # type: ignore[attr-defined]
    return outcome
