"""Worker processes and commands for tests, forked from a process that has imported everything already: what a cold start
costs is paid once.

    start() -> the variables that make a pipeline take its workers from here
    COMMAND -> what stands in place of `python -m finetune_pipeline.cli.main`; it needs these variables
    CALL -> followed by the address of a function (module:name) and a JSON list of arguments, calls it

The pipeline starts this module in place of the worker's entry. It asks the server to fork a worker, hands it arguments,
environment and files, passes signals on, and ends as the worker ended; killed, it takes the worker with it. Where the
start or the death of a process is the point, tests leave the variables out and get the real entry.
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
from typing import NoReturn

from finetune_pipeline.worker import process

ENTRY = "finetune_pipeline.worker.entry"
SOCKET = "FINETUNE_TEST_WARM_SOCKET"
_CLI, _CALL = "--command", "--call"
IMPORTED = """
cryptography.fernet dagster._core.execution.execute_in_process dagster._core.instance.factory matplotlib.backends.backend_svg
matplotlib.figure mlflow.pyfunc mlflow.store.model_registry.sqlalchemy_store mlflow.store.tracking.sqlalchemy_workspace_store
peft.tuners.lora.bnb sklearn.discriminant_analysis sklearn.dummy sklearn.feature_extraction.text sklearn.linear_model
sklearn.neighbors sklearn.pipeline tabulate transformers.models.llama.modeling_llama upath.implementations.local
finetune_pipeline.cli.run finetune_pipeline.data.dedup.kernels finetune_pipeline.data.split.alike_kernels
finetune_pipeline.definitions finetune_pipeline.evaluation.ability.scoring finetune_pipeline.evaluation.openai_endpoint
finetune_pipeline.evaluation.predict openai.resources.chat
finetune_pipeline.models.base finetune_pipeline.models.merging finetune_pipeline.training.sft
""".split()
"""What commands and workers import."""
COMMAND = (sys.executable, "-m", __spec__.name, _CLI)
CALL = (*COMMAND[:-1], _CALL)


@cache
def start() -> dict[str, str]:
    """Start the server of this test session, unless another test process has. Returns the environment variables that lead
    to it; none off Linux."""
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
        # OpenBLAS starts its threads when it is imported, and a process with threads cannot be forked safely
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
    """Import what workers import, then fork one for every request until the process `owner` ends."""
    import gc
    import sqlite3

    import numba
    import sqlalchemy.orm

    from finetune_pipeline.tracking.mlflow_store import set_environment
    from finetune_pipeline.worker import entry

    stands = {**entry.DEFAULTS, **entry.ENVIRONMENT, "HF_HUB_OFFLINE": "1"}
    os.environ.update(stands)
    set_environment()

    for name in IMPORTED:
        import_module(name)
    from mlflow.utils.requirements_utils import warn_dependency_requirement_mismatches

    warn_dependency_requirement_mismatches(["mlflow"])  # lists every installed package, once for all forks
    sqlalchemy.orm.configure_mappers()
    numba.njit(lambda x: x + 1)(1)  # the first compilation of a process loads most of numba

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
    def leave_writing_to_the_system(connection: sqlite3.Connection, _record: object) -> None:
        """A database of a test need not outlive a power cut, and much of a run is waiting for the disk."""
        connection.execute("PRAGMA synchronous=OFF")

    threads = [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]
    # Arrow's allocator has a thread and is made to be forked
    assert len([name for name in threads if name != "jemalloc_bg_thd"]) == 1, f"a fork may hang: {threads}"
    gc.collect()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(64)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks of this process
        print("ready", flush=True)
        ended = os.pidfd_open(owner)
        while True:
            ready, _, _ = select.select([listener, ended], [], [])
            if ended in ready:
                shutil.rmtree(Path(path).parent, ignore_errors=True)  # a killed owner has left it
                return
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                attend(connection, stands)
            connection.close()


def attend(connection: socket.socket, stands: dict[str, str]) -> None:
    """In a fork of the server: start the worker that is asked for, and tell how it ended. Never returns.

    stands: variables that were set before torch was imported.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, files, _, _ = socket.recv_fds(connection, 4, 64)
    request = json.loads(connection.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL))
    monitor = os.getpid()
    worker = os.fork()
    if worker == 0:
        connection.close()
        os.setsid()
        if request["arguments"][0] != _CLI:
            request["environment"] = {**stands, **request["environment"], "FINETUNE_PARENT_PID": str(monitor)}
        _become(request, files)
    for descriptor in files:
        os.close(descriptor)
    ended = os.pidfd_open(worker)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            _, status = os.waitpid(worker, 0)
            connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(2, "big", signed=True))
            os._exit(0)
        number = connection.recv(1)
        # nothing more to read: whoever asked was killed, and so is the worker
        os.kill(worker, number[0] if number else signal.SIGKILL)
        if not number:
            os._exit(0)


def _become(request: dict, files: list[int]) -> None:
    """Take the place of a process that was started cold: its files, environment, folder and arguments."""
    for wanted in request["files"]:  # out of the way of the numbers they shall have
        files = [os.dup(f) if f == wanted else f for f in files]
    for descriptor, wanted in zip(files, request["files"], strict=True):
        os.dup2(descriptor, wanted)
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[:0] = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in sys.path]
    os.chdir(request["folder"])
    for entry_point in entry_points(group="finetune_pipeline.trainers"):  # of packages on that path
        entry_point.load()
    arguments = request["arguments"]
    if arguments[0] == _CLI:
        from finetune_pipeline.cli.main import main

        sys.argv = ["finetune", *arguments[1:]]
        _end_after(main)
    if arguments[0] == _CALL:
        module, _, function = arguments[1].partition(":")
        _end_after(partial(getattr(import_module(module), function), *json.loads(arguments[2])))
    from finetune_pipeline.worker import entry

    sys.argv = [ENTRY, *arguments]
    entry.end_with_job(arguments)


def _end_after(function: Callable[[], object]) -> NoReturn:
    """Call it and end the process, but for taking apart what the server had imported, which costs most of a second."""
    code: object = 0
    try:
        function()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - as the interpreter ends with it
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


def ask(arguments: list[str]) -> None:
    """In place of the worker's entry or the command: have the server fork one and end as it ends."""
    process.die_with_parent()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.environ[SOCKET])
        own = connection.fileno()
        files = [f for f in (int(name) for name in os.listdir("/proc/self/fd")) if f != own and _is_open(f)]
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
        process.end_by(-code)
    os._exit(code)


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:  # the folder that was listed had a number too
        return False
    return True


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], int(sys.argv[3]))
    else:
        ask(sys.argv[1:])
