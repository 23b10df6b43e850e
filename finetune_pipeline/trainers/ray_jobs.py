"""Submits Ray jobs once, and finds them by name after any interruption.

Before it submits a job, it asks the cluster for it: it adopts a running job, starts a new attempt after a failed one, and
collects an existing result.

dagster-ray's PipesRayJobClient also submits such jobs, but needs a Dagster context, which trainers do not have. It neither
looks for an existing job nor reconnects to a lost one.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import finetune_pipeline
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.faults import JobError, OutsideError
from finetune_pipeline.progress import tell
from finetune_pipeline.reporting import say
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.trainers import RaySection
from finetune_pipeline.trainers.base import on_interrupt
from finetune_pipeline.trainers.ray_cluster import connect
from finetune_pipeline.trainers.storage import Storage
from finetune_pipeline.worker.entry import DEFAULTS, ENVIRONMENT
from finetune_pipeline.worker.process import NO_RETRY

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

ENTRYPOINT = "python -c 'from finetune_pipeline.trainers.ray_job import main; main()'"
"""Its arguments are the address of the storage, and the job's folder in it."""
POLL_SECONDS = 2.0
_UNREACHABLE_SECONDS = 600.0
"""How long a cluster may be unreachable before following a job fails; the job continues, and the next run adopts it."""
_AGENT_SECONDS = 120.0
"""Time limit for a newly started cluster to accept jobs."""
_STOP_SECONDS = 60.0


def storage_of(section: RaySection) -> str:
    """Return the address of the storage that task.yaml names, else of the folder in FINETUNE_HOME."""
    return section.storage or str(read_settings().home / "ray" / "storage")


def runtime_env(added: dict[str, Any]) -> dict[str, Any]:
    """Return Ray's runtime environment of a job: this package, for driver and workers, and the additions of task.yaml."""
    variables = {
        **DEFAULTS,
        "HF_HUB_OFFLINE": "1",
        **added.get("env_vars", {}),
        **ENVIRONMENT,  # Ray imports torch before our code could set them
    }
    modules = [str(Path(finetune_pipeline.__file__).parent), *added.get("py_modules", [])]
    excludes = ["__pycache__", *added.get("excludes", [])]
    return {**added, "env_vars": variables, "py_modules": modules, "excludes": excludes}


@dataclass
class RayJob:
    """A job, and this process's position in its log.

    name: derived from everything that affects the result; also its folder in the storage. stage: the step, for progress
    messages. work: local folder that survives a kill. submission: its id on the cluster; None: only the result is left to
    collect. worker, lines: which log is read, and how many of its lines were reported.
    """

    name: str
    section: RaySection
    stage: str
    work: Path
    submission: str | None = None
    worker: str = ""
    lines: int = 0
    unreachable_since: float | None = None

    @property
    def place(self) -> Storage:
        """Return the job's folder in the storage."""
        return Storage(storage_of(self.section)).below(self.name)

    def begin(self, bring_inputs: Callable[[Storage], None]) -> None:
        """Find the job, or submit a new attempt. bring_inputs: uploads the inputs, and job.json, to the job's folder."""
        place = self.place
        if self._collected_mark.exists() or place.has_folder("result"):
            say(f"{self.stage}: the Ray job has already ended; collecting its result")
            return
        with _connected(self.section.address) as client:
            attempts = _attempts(client, self.name)
            running = [number for number, is_running in attempts.items() if is_running]
            if running:
                self.submission = f"{self.name}-{running[-1]}"
                say(f"{self.stage}: resuming the Ray job {self.submission}")
                return
            bring_inputs(place)
            self.submission = f"{self.name}-{max(attempts, default=0) + 1}"
            with on_interrupt(lambda _: self.stop()):  # the cluster may have the job already
                self._submit(client)
            say(f"{self.stage}: submitted the Ray job {self.submission} to {self.section.address}")

    def has_ended(self) -> bool:
        """Whether the job has ended; forwards its new log lines."""
        if self.submission is None:
            return True
        for line in self._new_lines():
            say(line)
            tell(self.stage, line)
        try:
            with _connected(self.section.address) as client:
                info = _job_info(client, self.submission)
        except OutsideError as error:
            self.unreachable_since = self.unreachable_since or time.monotonic()
            if time.monotonic() - self.unreachable_since > _UNREACHABLE_SECONDS:
                raise
            say(f"{self.stage}: waiting for the cluster: {error}")
            return False
        self.unreachable_since = None
        return info is None or bool(info.status.is_terminal())

    def stop(self) -> None:
        """Stop the job, and wait until it has ended."""
        if self.submission is None:
            return
        try:
            with _connected(self.section.address) as client:
                if _job_info(client, self.submission) is None:
                    return
                client.stop_job(self.submission)
                deadline = time.monotonic() + _STOP_SECONDS
                while (info := _job_info(client, self.submission)) and not info.status.is_terminal():
                    if time.monotonic() > deadline:
                        say(f"{self.stage}: the Ray job {self.submission} was asked to stop but has not ended yet")
                        return
                    time.sleep(0.2)
            say(f"{self.stage}: stopped the Ray job {self.submission}; saved checkpoints are kept")
        except OutsideError as error:
            say(f"{self.stage}: the Ray job {self.submission} could not be stopped: {error}")

    def collect(self, out: Path) -> None:
        """Download the result into `out`, and empty the job's folder in the storage. Raises JobError if the job was refused, and
        would be again, and OutsideError if it failed."""
        collected, place = self.work / "collected", self.place
        if not self._collected_mark.exists():
            if not place.has_folder("result"):
                raise self._failure()
            shutil.rmtree(collected, ignore_errors=True)
            place.get("result", collected)
            write_json(self._collected_mark, {"job": self.submission})
        place.delete()  # do not leave personal data in the storage
        shutil.copytree(collected, out, dirs_exist_ok=True)

    def run(self, bring_inputs: Callable[[Storage], None], out: Path) -> None:
        """Begin, wait for the end, and collect. An interrupt stops the job; after a local failure it continues, and the next run
        adopts it."""
        self.begin(bring_inputs)
        with on_interrupt(lambda _: self.stop()):
            while not self.has_ended():
                time.sleep(POLL_SECONDS)
        self.collect(out)

    @property
    def _collected_mark(self) -> Path:
        """Path of the file that marks a complete result in the work folder; the storage may then be emptied."""
        return self.work / "collected.json"

    def _submit(self, client: JobSubmissionClient) -> None:
        """Submit exactly once: after an error, the job counts as submitted if the cluster knows it."""
        import requests

        assert self.submission is not None
        deadline = time.monotonic() + _AGENT_SECONDS
        while True:
            try:
                client.submit_job(
                    entrypoint=f"{ENTRYPOINT} {shlex.quote(storage_of(self.section))} {self.name}",
                    submission_id=self.submission,
                    runtime_env=runtime_env(self.section.runtime_env),
                )
                return
            except (RuntimeError, requests.RequestException) as error:
                if _job_info(client, self.submission) is not None:
                    return
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise OutsideError(f"the Ray cluster rejected the job: {_reason(error)}") from error
                time.sleep(1.0)

    def _new_lines(self) -> list[str]:
        """Return the workers' new log lines since the last call (of replacement workers, all lines). Also downloads their
        history into the work folder, as in a local training."""
        place = self.place
        try:
            log = place.read_json("said.json") or {"worker": "", "lines": []}
            if log["lines"] and (log["worker"], len(log["lines"])) != (self.worker, self.lines):
                with contextlib.suppress(OutsideError):  # there is no history before the first step
                    place.get("history.jsonl", self.work / "history.jsonl")
        except (OSError, OutsideError):  # the storage is temporarily unreachable
            return []
        if log["worker"] != self.worker:
            self.worker, self.lines = log["worker"], 0
        new_lines: list[str] = log["lines"][self.lines :]
        self.lines += len(new_lines)
        return new_lines

    def _failure(self) -> Exception:
        """Return the error for a job that ended without a result."""
        error = self.place.read_json("error.json")
        logs = f"look: ray job logs {self.submission}"
        if error is None:
            return OutsideError(
                f"the Ray job {self.submission} ended without a result and without an error; it may have been stopped, or "
                f"the cluster is short of memory\n{logs}",
                "run again; it resumes from the last checkpoint",
            )
        message = f"the Ray job {self.submission} failed: {error['message']}"
        if error["code"] in NO_RETRY:
            return JobError(message)
        return OutsideError(f"{message}\n{logs}", "run again; it resumes from the last checkpoint")


@contextlib.contextmanager
def _connected(address: str) -> Iterator[JobSubmissionClient]:
    """Yield a client of the cluster's job server; its failures become OutsideError."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        yield connect(address)
    except (ConnectionError, requests.RequestException) as error:
        raise OutsideError(f"the Ray cluster at {address} does not answer ({type(error).__name__})") from error
    except AuthenticationError as error:
        raise OutsideError(
            f"the Ray cluster at {address} rejected our credentials",
            "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, in the environment",
        ) from error
    except RuntimeError as error:
        if isinstance(error, OutsideError):
            raise
        raise OutsideError(f"the Ray cluster at {address} reports an error: {_reason(error)}") from error


def _attempts(client: JobSubmissionClient, name: str) -> dict[int, bool]:
    """Return whether each attempt of a job on the cluster is running, by the attempt's number, in ascending order."""
    attempts = {}
    for job in client.list_jobs():
        prefix, _, number = (job.submission_id or "").rpartition("-")
        if prefix == name and number.isdigit():
            attempts[int(number)] = not job.status.is_terminal()
    return dict(sorted(attempts.items()))


def _job_info(client: JobSubmissionClient, submission: str) -> Any:
    """Return the cluster's information about a job; None for an unknown job."""
    try:
        return client.get_job_info(submission)
    except RuntimeError as error:
        if "does not exist" in str(error):
            return None
        raise


def _reason(error: Exception) -> str:
    """Return the most informative line of an error of Ray's: the last line of a traceback, or the text before an HTML page."""
    text = re.split(r"<(?:!doctype|html)", str(error), maxsplit=1, flags=re.IGNORECASE)[0]
    lines = [line for line in text.splitlines() if line.strip(" .")]
    return lines[-1].strip(" :") if lines else type(error).__name__
