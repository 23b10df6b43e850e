"""``finetune ui``: starts Dagster's web UI and daemon and MLflow's UI, on this machine only."""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time

import click

from finetune_pipeline.cli.output import DONE, ERROR, apply_environment, problem, say
from finetune_pipeline.engine.files import replace_text
from finetune_pipeline.orchestration.dagster_internals import WORKSPACE
from finetune_pipeline.serving.local_server import HOST, port_problem
from finetune_pipeline.settings import read_settings
from finetune_pipeline.tracking.tracking import ADDRESS, Tracking

_PORT = click.IntRange(1, 65535)
LOG_LEVEL = "error"
QUIET = {"PYTHONWARNINGS": "ignore", "MLFLOW_LOGGING_LEVEL": "ERROR"}
"""What the servers log, and the variables by which MLflow's keeps its warnings to itself: a person gets addresses and errors."""
TITLES = {"dagster": "Dagster:", "mlflow": "MLflow:"}
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command()
@click.option("--dagster-port", type=_PORT, default=3000, show_default=True, help="Port of the Dagster UI.")
@click.option("--mlflow-port", type=_PORT, default=5000, show_default=True, help="Port of the MLflow UI.")
def ui(dagster_port: int, mlflow_port: int) -> int:
    """Start Dagster's UI with its daemon, and MLflow's: on 127.0.0.1. Ctrl-C stops both."""
    settings, tracking = read_settings(), Tracking()
    apply_environment()
    # `dagster dev` warns of its own successor, `dg dev`
    python = [sys.executable, "-W", "ignore::FutureWarning", "-m"]
    workspace = ["-w", str(WORKSPACE)]
    web_server = "finetune_pipeline.orchestration.web_server"
    dagster = [*python, web_server, "dev", "-h", HOST, "-p", str(dagster_port), "--log-level", LOG_LEVEL, *workspace]
    servers = {"dagster": (dagster_port, settings.project, dagster)}
    if not tracking.uri().startswith("http"):
        store = ["--backend-store-uri", tracking.uri(), "--default-artifact-root", str(tracking.place() / "artifacts")]
        mlflow = ["mlflow", "server", "--host", HOST, "--port", str(mlflow_port), "--workers", "1"]
        mlflow += ["--uvicorn-opts", f"--log-level {LOG_LEVEL}"]
        # MLflow's uvicorn imports modules from its working folder
        servers["mlflow"] = (mlflow_port, tracking.place(), [*python, *mlflow, *store])
    port_problems = [words for name, (port, *_) in servers.items() if (words := port_problem(port, f"--{name}-port"))]
    if port_problems:
        raise click.ClickException("\n".join(port_problems))
    tracking.prepare()
    if "mlflow" in servers:  # links to runs lead there
        replace_text(tracking.place() / ADDRESS, f"http://{HOST}:{mlflow_port}\n")
    for signal_number in _STOPPING:  # a shell's background jobs ignore SIGINT
        signal.signal(signal_number, signal.default_int_handler)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    code = DONE
    try:
        for name, (_, folder, command) in servers.items():
            quiet = QUIET if name == "mlflow" else {}  # runs inherit Dagster's
            processes[name] = subprocess.Popen(command, cwd=folder, start_new_session=True, env={**os.environ, **quiet})
        say("starting; each address is printed when it answers")
        if "mlflow" not in servers:
            say(f"MLflow:  {tracking.page()}")
        starting = {name: servers[name][0] for name in processes}
        while not code:
            for name in [name for name, port in starting.items() if answers(port)]:
                say(f"{TITLES[name]:<8} http://{HOST}:{starting.pop(name)}")
            for name, process in processes.items():
                if process.poll() is not None:
                    problem(f"{name} ended with exit code {process.returncode}; its last lines above say why")
                    code = ERROR
            time.sleep(0.5)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):  # the terminal may be gone
            say("stopping")
    finally:
        for signal_number in _STOPPING:  # a second one would leave servers running
            signal.signal(signal_number, signal.SIG_IGN)
        for process in processes.values():
            _signal_group(process, signal.SIGTERM)
        for process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            _signal_group(process, signal.SIGKILL)  # its children, too
    return code


def answers(port: int) -> bool:
    """Whether a server on this machine answers with its page. No proxy is asked."""
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/", headers={"Accept": "text/html"})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):  # not listening yet, or not ready
        return False
    finally:
        connection.close()


def _signal_group(process: subprocess.Popen[bytes], signal_number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal_number)
