"""A run from the UI of a real `dagster dev` whose daemon and code server are killed: a part of `benchmarks/chaos.py`."""

import random
import time

import psutil

from finetune_pipeline_tests.dagster_dev import ROOT, dagster_dev
from finetune_pipeline_tests.graph.disturbed import finish, whole
from finetune_pipeline_tests.graph.project import Project
from finetune_pipeline_tests.unit.processes import wait_until

OVER = ("SUCCESS", "FAILURE", "CANCELED")


def _kill(processes: list[psutil.Process]) -> int:
    for process in processes:
        process.kill()
    return len(processes)


def dagster_fault(project: Project, rng: random.Random) -> tuple[Project, int, str]:
    """While the run trains, the code server gets SIGKILL, then the daemon, with which `dagster dev` ends."""
    environment = {**project.environment(), "DAGSTER_HOME": str(ROOT), "PYTHONPATH": str(ROOT)}
    steps = project.home / "artifacts" / project.folder.name
    with dagster_dev(project.root / "dev.log", environment) as dev:
        run_id = dev.launch(f"{project.folder.name}__all")
        wait_until(lambda: list(steps.glob("splits/*/artifact.json")), 1800)
        time.sleep(rng.uniform(0, 5))
        seen = [f"SIGKILL for {_kill(dev.processes('dagster api grpc'))} code servers: run {dev.status(run_id)}"]
        whole(project)
        wait_until(lambda: list((steps / ".work" / "adapter").glob("*")) or dev.status(run_id) in OVER, 1800)
        time.sleep(rng.uniform(0, 5))
        seen.append(f"run {dev.status(run_id)}; for {_kill(dev.processes('dagster._daemon'))} daemons")
        wait_until(lambda: dev.process.poll() is not None, 300)
    whole(project)
    return project, finish(project), "; ".join(seen)
