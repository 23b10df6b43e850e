"""The job server of a Ray cluster over real sockets, with faults on order: for schedules that a cluster is too slow for.

Only states and answers are made here; the client is Ray's own, and checks them by its own types.
"""

from typing import Any, Self

from finetune_pipeline_tests.service_server import Reply, Request, ServiceServer, serving

FAULTS = ("refuse", "fail after", "drop", "drop after")
"""An error or a lost connection, before or after the server has done what was asked."""


class RayJobsServer(ServiceServer):
    """Jobs by submission id, in the order in which they came. A job runs until `finish` is called for it."""

    key = None

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self._serving = serving(self)
        self._serving.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._serving.__exit__(None, None, None)

    def finish(self, submission: str, status: str) -> None:
        self.jobs[submission]["status"] = status

    def running(self) -> list[str]:
        return [name for name, job in self.jobs.items() if job["status"] == "RUNNING"]

    def answer(self, request: Request) -> Reply:
        """What the server does and answers, as Ray 2.60's dashboard does."""
        path, name = request.path, request.path.removeprefix("/api/jobs/").removesuffix("/stop")
        if path == "/api/version":
            return Reply({"version": "4", "ray_version": "2.60.0", "ray_commit": "x", "session_name": "s"})
        if path.startswith("/api/packages/"):
            return Reply({})
        if path == "/api/jobs/" and request.method == "GET":
            return Reply(list(self.jobs.values()))
        if path == "/api/jobs/":
            job = request.json()
            submission = {"submission_id": job["submission_id"]}
            if job["submission_id"] in self.jobs:
                return Reply(f"Job with submission_id {job['submission_id']} already exists", 500)
            kept = {key: job[key] for key in ("submission_id", "entrypoint", "runtime_env", "metadata")}
            self.jobs[job["submission_id"]] = {"type": "SUBMISSION", "status": "RUNNING", **kept}
            return Reply({"job_id": job["submission_id"], **submission})
        if name not in self.jobs:
            return Reply(f"Job {name} does not exist", 404)
        if path.endswith("/stop"):
            self.finish(name, "STOPPED")
            return Reply({"stopped": True})
        return Reply(self.jobs[name])
