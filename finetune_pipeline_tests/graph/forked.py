"""Runs of `finetune run` forked from a process that has already imported the command, which saves the imports of some hundred
runs. The worker processes that use torch start as always."""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping

from finetune_pipeline_tests.graph.project import Project

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload([__name__, "finetune_pipeline.definitions", "finetune_pipeline.cli.run"])


class Run:
    """A running `finetune run`, with the part of the interface of subprocess.Popen that is used."""

    def __init__(self, project: Project, *arguments: str, **environment: str) -> None:
        values = {**project.environment(), **environment}
        log = str(project.root / "run.log")
        self._process = _FORKS.Process(target=_finetune, args=(["run", project.folder.name, *arguments], values, log))
        self._process.start()
        assert self._process.pid
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("finetune run", timeout or 0)
        return self._process.exitcode


def _finetune(arguments: list[str], environment: Mapping[str, str], log: str) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the parent process may ignore it
    os.environ.clear()
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(handle, stream)
    sys.argv = ["finetune", *arguments]
    from finetune_pipeline.cli.main import main

    main()
