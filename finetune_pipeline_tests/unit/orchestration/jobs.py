"""Dagster jobs with one training step, for tests that cancel and kill real runs. The variable TEST_JOB holds the worker's job."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import dagster as dg

from finetune_pipeline.jobs import Job
from finetune_pipeline.orchestration.dagster_internals import watch_while_waiting
from finetune_pipeline.orchestration.resources import Compute
from finetune_pipeline.worker.device_lease import lease
from finetune_pipeline_tests.unit.processes import is_running, wait_until

CHILD = "finetune_pipeline_tests.unit.orchestration.child"
ROOT = Path(__file__).resolve().parents[3]


class FakeJob(Job, frozen=True, kw_only=True):
    """A job of child.py. behave: what it does."""

    behave: dict[str, Any]


def environment(folder: Path, **behave: Any) -> dict[str, str]:
    """Environment variables for running these jobs, whose worker and grandchild sleep until they are ended."""
    behave = {"sleep": 900, "grandchild": True, **behave}
    return {
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(ROOT),
        "FINETUNE_HOME": str(folder / "home"),
        "FINETUNE_DEVICES": "cpu",
        "FINETUNE_WORKER_MODULE": CHILD,
        "TEST_LOCKS": str(folder / "locks"),
        "TEST_JOB": json.dumps({"out": str(folder / "out"), "behave": behave}),
    }


def assert_ended(folder: Path, *pids: int) -> None:
    """Assert that these processes end and the device lease is free."""
    wait_until(lambda: not any(map(is_running, pids)), 60)
    with lease(["cpu"], lambda _: folder / "locks", poll_s=0.05):
        pass


def execute(job: str) -> None:
    """Run `dagster job execute` in this process, and write its id to the file `run`."""
    from dagster._cli import main

    Path("run").write_text(str(os.getpid()))
    sys.argv = ["dagster", "job", "execute", "-m", __name__, "-j", job]
    main()


@dg.job
def nothing() -> None:
    """A job for runs that exist only as records in Dagster."""


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=2))
def adapter(context: dg.AssetExecutionContext, compute: Compute) -> dg.MaterializeResult[Any]:
    """Runs TEST_JOB in a worker process."""
    fields = json.loads(os.environ["TEST_JOB"])
    compute.launch(context, FakeJob(stage="adapter", out=Path(fields["out"]), behave=fields["behave"]))
    return dg.MaterializeResult()


@dg.op(pool="gpu")
def heavy() -> None:
    """A step that waits for the pool."""


@dg.job(executor_def=dg.in_process_executor)
def waits() -> None:
    """A job whose step waits for the pool."""
    heavy()


@dg.job(executor_def=dg.multiprocess_executor)
def waits_in_many_processes() -> None:
    """The same, as the UI and the daemon start it."""
    heavy()


watch_while_waiting()
defs = dg.Definitions(
    assets=[adapter],
    resources={
        "compute": Compute(grace_s=1.0, terminate_s=1.0, watch_run_s=0.5, lock_folder=os.environ.get("TEST_LOCKS", ""))
    },
    jobs=[
        waits,
        waits_in_many_processes,
        dg.define_asset_job("in_one_process", [adapter], executor_def=dg.in_process_executor),
        dg.define_asset_job("in_many_processes", [adapter], executor_def=dg.multiprocess_executor),
    ],
)
