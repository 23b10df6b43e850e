"""``finetune ui``: Dagster's web UI with its daemon, and MLflow's, on this machine only."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import click

from finetune_pipeline.cli.output import DONE, ERROR, environment, problem, say
from finetune_pipeline.serving.local_server import HOST
from finetune_pipeline.settings import read_settings
from finetune_pipeline.tracking.tracking import Tracking


@click.command()
@click.option("--dagster-port", default=3000, show_default=True, help="Port of the Dagster UI.")
@click.option("--mlflow-port", default=5000, show_default=True, help="Port of the MLflow UI.")
@click.option("--seconds", default=0, help="Stop by itself after so many seconds; 0: run until Ctrl-C.")
def ui(dagster_port: int, mlflow_port: int, seconds: int) -> int:
    """Start Dagster's UI with its daemon, and MLflow's UI, on 127.0.0.1. Ctrl-C stops both."""
    settings, tracking = read_settings(), Tracking()
    tracking.prepare()
    env = environment()
    python = [sys.executable, "-m"]
    workspace = str(settings.project / "workspace.yaml")
    commands = {"dagster": [*python, "dagster", "dev", "-h", HOST, "-p", str(dagster_port), "-w", workspace]}
    if not tracking.uri().startswith("http"):
        store = ["--backend-store-uri", tracking.uri(), "--default-artifact-root", str(settings.artifact_location)]
        server = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
        commands["mlflow"] = [*python, *server, *store]
    processes = {
        name: subprocess.Popen(command, cwd=settings.project, env=env, start_new_session=True)
        for name, command in commands.items()
    }
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background jobs are started with SIGINT ignored
        signal.signal(number, _stop)
    say(f"Dagster: http://127.0.0.1:{dagster_port}")
    say(f"MLflow:  {f'http://127.0.0.1:{mlflow_port}' if 'mlflow' in processes else tracking.page()}")
    end = time.monotonic() + seconds if seconds else None
    code = DONE
    try:
        while end is None or time.monotonic() < end:
            for name, process in processes.items():
                if process.poll() is not None:
                    problem(f"{name} ended with exit code {process.returncode}; is its port in use?")
                    code = ERROR
            if code:
                break
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("stopping")
    finally:
        for process in processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes.values():
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
    return code


def _stop(*_: object) -> None:
    raise KeyboardInterrupt
