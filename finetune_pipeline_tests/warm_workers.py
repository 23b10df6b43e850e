"""Worker processes and commands for tests, forked from a server that has already imported everything, so that only one
cold start is paid.

    start() -> environment variables that make the pipeline fork its workers from the server
    COMMAND -> replaces `python -m finetune_pipeline.cli.main`; needs these variables
    call_command(function, …) -> command that calls a module's function with JSON arguments; needs these variables

The pipeline starts this module instead of the worker's entry. This client process asks the server to fork a worker, passes on
arguments, environment, open files and signals, and exits as the worker does; if the client is killed, so is the worker. Tests
of process start or death omit the variables and get the real entry.
"""

import atexit
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

from finetune_pipeline.worker import process

ENTRY = "finetune_pipeline.worker.entry"
SOCKET = "FINETUNE_TEST_WARM_SOCKET"
_CLI, _CALL = "--command", "--call"
PRELOADED = """
cryptography.fernet dagster._core.execution.execute_in_process dagster._core.instance.factory matplotlib.backends.backend_svg
matplotlib.figure mlflow.pyfunc mlflow.store.model_registry.sqlalchemy_store mlflow.store.tracking.sqlalchemy_workspace_store
peft.tuners.lora.bnb sklearn.discriminant_analysis sklearn.dummy sklearn.feature_extraction.text sklearn.linear_model
sklearn.neighbors sklearn.pipeline tabulate transformers.models.llama.modeling_llama upath.implementations.local
finetune_pipeline.cli.run finetune_pipeline.data.dedup.kernels finetune_pipeline.data.split.alike
finetune_pipeline.definitions finetune_pipeline.evaluation.ability.scoring finetune_pipeline.evaluation.openai_endpoint
finetune_pipeline.evaluation.predict openai.resources.chat
finetune_pipeline.models.base finetune_pipeline.models.merging finetune_pipeline.training.sft
""".split()
"""Modules that commands and workers import."""
COMMAND = (sys.executable, "-m", __spec__.name, _CLI)


def call_command(function: Callable[..., object], *arguments: Any) -> list[str]:
    return [*COMMAND[:-1], _CALL, f"{function.__module__}:{function.__name__}", json.dumps(arguments)]


@cache
def start() -> dict[str, str]:
    """Start the session's server unless another test process has. Returns the environment variables that point to it; none
    on other systems than Linux."""
    if not sys.platform.startswith("linux"):
        return {}
    from finetune_pipeline.engine.files import hold
    from finetune_pipeline_tests.shared import Shared

    shared = Shared.get()
    socket_path = shared.folder / "socket"
    with hold(shared.folder / "server.lock"):
        if not socket_path.exists():
            _start_server(socket_path, shared.owner)
    return {"FINETUNE_WORKER_MODULE": __spec__.name, SOCKET: str(socket_path)}


def _start_server(path: Path, owner: int) -> None:
    root = Path(__file__).resolve().parents[1]
    server = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "--serve", str(path), str(owner)],
        # OpenBLAS starts threads on import, and a process with threads cannot be forked safely
        env={
            **os.environ,
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert server.stdout
    assert server.stdout.readline() == b"ready\n", "the server of warm workers did not start"


def serve(path: str, owner: int) -> None:
    """Preload modules, then fork a worker for each request until the process `owner` ends."""
    import gc

    import numba
    import sqlalchemy.orm

    from finetune_pipeline.tracking.mlflow_store import set_environment
    from finetune_pipeline.worker import entry
    from finetune_pipeline_tests.shared import disable_fsync

    worker_environment = {**entry.DEFAULTS, **entry.ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    os.environ.update(worker_environment)
    set_environment()

    for name in PRELOADED:
        import_module(name)
    from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

    warn_dependency_requirement_mismatches(["mlflow"])  # caches the list of installed packages
    sqlalchemy.orm.configure_mappers()
    numba.njit(lambda x: x + 1)(1)  # the first compilation loads most of numba
    disable_fsync()

    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    # the thread of Arrow's allocator is safe to fork
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, f"a fork may hang: {threads}"
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # forks are not waited for
        print("ready", flush=True)
        owner_exit = os.pidfd_open(owner)
        while True:
            ready, _, _ = select.select([listener, owner_exit], [], [])
            if owner_exit in ready:
                shutil.rmtree(Path(path).parent, ignore_errors=True)  # a killed owner could not remove it
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                supervise(connection, worker_environment)
            connection.close()


def supervise(connection: socket.socket, worker_environment: dict[str, str]) -> NoReturn:
    """In a fork of the server: start the requested worker, pass signals to it, and report its exit code.

    worker_environment: Variables that were set before torch was imported.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 4, 64)
    request = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    supervisor = os.getpid()
    worker = os.fork()
    if worker == 0:
        connection.close()
        os.setsid()
        if request["arguments"][0] != _CLI:
            parent = {"FINETUNE_PARENT_PID": str(supervisor)}
            request["environment"] = {**worker_environment, **request["environment"], **parent}
        _run_request(request, files)
    for descriptor in files:
        os.close(descriptor)
    worker_exit = os.pidfd_open(worker)
    while True:
        ready, _, _ = select.select([connection, worker_exit], [], [])
        if worker_exit in ready:
            _, status = os.waitpid(worker, 0)
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(2, "big", signed=True))
            os._exit(0)
        signal_number = connection.recv(1)
        if not signal_number:  # the client was killed
            os.kill(worker, signal.SIGKILL)
            os._exit(0)
        os.kill(worker, signal_number[0])


def _run_request(request: dict[str, Any], files: list[int]) -> NoReturn:
    """Run the request with the client's files, environment, folder and arguments, as if this process were started cold."""
    for number in request["files"]:  # move received files off the numbers that others will get
        files = [os.dup(f) if f == number else f for f in files]
    for descriptor, number in zip(files, request["files"], strict=True):
        os.dup2(descriptor, number)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    os.chdir(request["folder"])
    for entry_point in entry_points(group="finetune_pipeline.trainers"):  # of packages on the new path
        entry_point.load()
    arguments = request["arguments"]
    if arguments[0] == _CLI:
        from finetune_pipeline.cli.main import main

        sys.argv = ["finetune", *arguments[1:]]
        _call_and_exit(main)
    if arguments[0] == _CALL:
        module, _, function = arguments[1].partition(":")
        _call_and_exit(partial(getattr(import_module(module), function), *json.loads(arguments[2])))
    from finetune_pipeline.worker import entry

    sys.argv = [ENTRY, *arguments]
    entry.end_with_job(arguments)


def _call_and_exit(function: Callable[[], object]) -> NoReturn:
    """Call a function and exit as the interpreter would, but without its teardown of modules, which takes most of a
    second."""
    code: object = 0
    try:
        function()
    except SystemExit as exit_request:
        code = exit_request.code
    except BaseException:  # noqa: BLE001 - the interpreter would print it and exit with 1
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def request_worker(arguments: list[str]) -> NoReturn:
    """The client: have the server fork a worker, and exit as it exits."""
    process.die_with_parent()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.environ[SOCKET])
        files = [f for f in map(int, os.listdir("/proc/self/fd")) if f != connection.fileno() and _is_open(f)]
        request = json.dumps(
            {"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd()), "files": files}
        ).encode()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda n, _frame: connection.sendall(bytes([n])))
        socket.send_fds(connection, [len(request).to_bytes(4, "big")], files)
        connection.sendall(request)
        answer = connection.recv(2)
    if len(answer) < 2:
        os._exit(1)
    code = int.from_bytes(answer, "big", signed=True)
    if code < 0:
        _end_by(-code)
    os._exit(code)


def _end_by(number: int) -> None:
    """End by the same signal as the worker."""
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # the descriptor of the folder listing itself
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        request_worker(sys.argv[1:])
